"""The recording context and the real one have the same methods: a step can't tell them apart."""

import inspect
from typing import Any

import pytest
from recording import RecordingContext

from ml_pipelines.config import load
from ml_pipelines.context import StepContext
from steps import train

PUBLIC = sorted(name for name in vars(StepContext) if not name.startswith("_"))


def test_they_have_the_same_public_names() -> None:
    assert sorted(name for name in vars(RecordingContext) if not name.startswith("_")) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_the_same_kind_with_the_same_signature(name: str) -> None:
    real, recording = (inspect.getattr_static(kind, name) for kind in (StepContext, RecordingContext))
    assert type(real) is type(recording)
    assert inspect.signature(_function(real)) == inspect.signature(_function(recording))


def test_a_step_finds_the_same_attributes_on_both() -> None:
    config = load("local")
    real: StepContext[train.Params] = StepContext(config, "train", "run", "parent", "0")
    recording = RecordingContext("train", config.steps["train"].params)
    for name in [name for name in vars(real) if not name.startswith("_")]:
        assert type(getattr(real, name)) is type(getattr(recording, name)), name


def _function(member: Any) -> Any:
    return member.fget if isinstance(member, property) else member
