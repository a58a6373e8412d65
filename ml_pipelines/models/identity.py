"""What identifies the split and the label of a model: tags of its version, so that they survive its runs.

Two models are compared only on rows that neither has seen, and only if class 1 means the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring.context import Version
from ml_pipelines.data.columns import standard_name
from ml_pipelines.errors import PipelineError
from ml_pipelines.text import escaped
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store, parent_of, shortened

if TYPE_CHECKING:
    from mlflow.entities import Run

SPLIT = "split.json"  # artifact of prepare_data: the tags of the split (see modelling/split.py)
NAMES = (
    *("split_kind", "split_key", "split_seed", "split_fraction", "split_columns"),
    *("problem", "label_name", "label_0", "label_1"),
)
VERSION_TAG_LENGTH = 1_000  # the longest tag of a version in Unity Catalog; MLflow's own registry allows more


def version_tag(text: str) -> str:
    """Return a text as the tag of a version holds it."""
    return shortened(escaped(text), VERSION_TAG_LENGTH)


def of_tables(store: Store, run: Run) -> dict[str, str]:
    """Return the identity of the tables that a run of prepare_data wrote. Values that no run recorded are left out."""
    columns, split, config = (
        lineage.load_own_json(store, run, name) for name in ("columns.json", SPLIT, "config.json")
    )
    data = _mapping(_mapping(config).get("data"))
    if not isinstance(split, dict):
        split = {} if "split_seed" in data else _split_of_earlier_release(_mapping(config), data)
    classes = {number: value for value, number in _mapping(_mapping(columns).get("label")).items()}
    label = {"label_name": _mapping(columns).get("label_name", data.get("label"))}
    label |= {f"label_{number}": classes.get(number) for number in (0, 1)}
    label |= {"problem": _mapping(columns).get("problem")}
    return {
        name: version_tag(str(value)) for name, value in (split | label).items() if name in NAMES and value is not None
    }


def of_version(store: Store, version: Version) -> dict[str, str]:
    """Return the identity of a version: its tags, or what the runs of an earlier release recorded."""
    if "split_kind" in version.tags:
        return {name: version.tags[name] for name in NAMES if name in version.tags}
    try:
        parent = parent_of(store.get_run(version.run_id))
        writer = lineage.producers_of(store, parent).get("train_uri") if parent else None
        return of_tables(store, writer) if writer else {}
    except PipelineError:  # the runs are gone, or lie in another store
        return {}


def _split_of_earlier_release(config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the split of a run that had no `data.split_seed`: `seed` decided it."""
    if not {"key", "test_fraction"} <= data.keys():
        return {}
    key = data["key"]
    kind = {"split_kind": "key", "split_key": standard_name(str(key))} if key else {"split_kind": "row"}
    return {**kind, "split_seed": config.get("seed"), "split_fraction": data["test_fraction"]}


def _mapping(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}
