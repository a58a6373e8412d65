"""The recording context and the real one both implement the author's API, so a step can't tell them apart."""

import inspect
from typing import Any

import pytest
from conftest import Store
from recording import RecordingContext

from ml_pipelines.authoring.context import StepContext
from ml_pipelines.config.loading import load
from ml_pipelines.execution.context import TrackedContext
from steps import train

PUBLIC = sorted(name for name in vars(StepContext) if not name.startswith("_"))
ATTRIBUTES = sorted(name for name in StepContext.__annotations__ if not name.startswith("_"))


@pytest.mark.parametrize("kind", [TrackedContext, RecordingContext])
@pytest.mark.parametrize("name", PUBLIC)
def test_each_method_has_the_signature_of_the_authors_api(name: str, kind: type) -> None:
    declared, implemented = (inspect.getattr_static(context_class, name) for context_class in (StepContext, kind))
    assert type(declared) is type(implemented)
    assert inspect.signature(_function(declared)) == inspect.signature(_function(implemented))


def test_both_contexts_have_the_same_attributes(store: Store) -> None:
    config = load("local")
    real: TrackedContext[train.Params] = TrackedContext(store.opened, config, "train", "run", "parent", "0")
    recording = RecordingContext("train", config.steps["train"].params)
    assert ATTRIBUTES == [
        "crown",
        "data",
        "key_column",
        "label",
        "log",
        "name",
        "params",
        "pipeline_run_id",
        "run_id",
        "score",
        "seed",
    ]
    for name in ATTRIBUTES:
        assert type(getattr(real, name)) is type(getattr(recording, name)), name


def _function(member: Any) -> Any:
    return member.fget if isinstance(member, property) else member
