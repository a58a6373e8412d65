"""What the step `score` needs: the scores of a model on its test table, and the name of a batch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ml_pipelines.authoring.context import Version
from ml_pipelines.config.schema import Source
from ml_pipelines.data import source_content
from ml_pipelines.modelling.score_bins import FILE, ScoreBins
from ml_pipelines.models import scoring_model
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store


def test_scores(store: Store, version: Version) -> ScoreBins | None:
    """Return how the scores of a version's test table are distributed, or None if no run of evaluate recorded it."""
    run = scoring_model.evaluate_run(store, version)
    return ScoreBins.from_json(lineage.load_own_json(store, run, FILE)) if run else None


def batch_id(source: Source, seed: int) -> str | None:
    """Return a digest of the source's content, or None if the content can't be identified."""
    if not source_content.is_known(source):
        return None
    content = source_content.content_of(source, _file_digest)
    return hashlib.sha256(f"{content} {seed if source.kind.value == 'synthetic' else ''}".encode()).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
