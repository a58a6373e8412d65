"""Read what runs have recorded: numbers in tags, kept and skipped steps, JSON.

Anybody who can write to the store can change these records. The functions below raise OddRecord, a one-line error, for
a record that the pipeline can't have written. So no other module fails on such a record with a traceback.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import BadData, QaRefused, StepFailed
from ml_pipelines.text import quoted

if TYPE_CHECKING:
    from mlflow.entities import Run

EXIT_CODE = "exit_code"
KEPT, SKIPPED = "kept.", "skipped."  # the beginnings of tags; a step's name follows
REPORT = "report"  # a tag of a pipeline run: the name of the artifact with its report, once the report is complete
OLD_KEPT = "kept"  # one tag with all kept steps as JSON, in runs of earlier versions


class OddRecord(StepFailed):
    """A run has a tag that this pipeline can't have written."""


def whole_number(run: Run, tag: str) -> int:
    """Return the whole number in a run's tag.

    Raises:
        OddRecord: the run has no such tag, or the tag is not a whole number.
    """
    text = run.data.tags.get(tag, "")
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise odd_record(run, tag)
    return int(text)


def exit_code(run: Run) -> int:
    """Return the exit code that a step's run recorded, or StepFailed.exit_code if the tag is missing or damaged."""
    try:
        return whole_number(run, EXIT_CODE)
    except OddRecord:
        return StepFailed.exit_code


def resuming_can_help(exit_codes: Iterable[int]) -> bool:
    """Return whether resuming can help a pipeline run whose failed steps have these exit codes.

    Resuming can't help if the data or the quality gate stopped every failed step, because they would fail again. The
    messages of these steps say what to change.
    """
    codes = set(exit_codes)
    return not codes or not codes <= {BadData.exit_code, QaRefused.exit_code}


def steps_in(run: Run, beginning: str) -> dict[str, str]:
    """Return the kept or skipped steps of a pipeline run: step -> value of its tag.

    Args:
        run: the pipeline run.
        beginning: KEPT or SKIPPED.

    Raises:
        OddRecord: the tag `kept` of a run of an earlier version is not a JSON object of texts.
    """
    tags = run.data.tags
    if beginning == KEPT and OLD_KEPT in tags:
        kept = parse_json(tags[OLD_KEPT])
        if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
            raise odd_record(run, OLD_KEPT)
        return kept
    return {name.removeprefix(beginning): value for name, value in tags.items() if name.startswith(beginning)}


def odd_record(run: Run, tag: str) -> OddRecord:
    """Return the error that names a missing or damaged tag of a run, and says what to do."""
    run_id, value = run.info.run_id, run.data.tags.get(tag)
    written = f"the tag {tag}={quoted(value)}" if value is not None else f"no tag {tag}"
    return OddRecord(
        f"Run {run_id} has {written}, so it was changed after the pipeline wrote it. "
        f"Delete the run: mlflow runs delete --run-id {run_id}"
    )


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, or None if the text is not JSON or has too many levels."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
