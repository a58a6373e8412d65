"""The benchmark's plain script runs the steps' own functions, so a change of one of these must not break it."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.mark.slow
def test_the_plain_script_does_what_the_five_steps_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_NOOP", raising=False)
    data, work = importlib.import_module("data"), importlib.import_module("work")
    train, test = work.prepare_data(str(data.make(2_000, tmp_path)), str(tmp_path))
    model, example, metrics = work.train(train)
    assert example.height == 5 and metrics["train_auc"] > 0.9
    assert 0.7 < work.evaluate(model, test, str(tmp_path / "evaluate"))["test_auc"] < metrics["train_auc"]
    assert len(work.feature_importance(model, train, str(tmp_path / "importance"))) == 20
    assert json.loads((tmp_path / "importance" / "feature_importance.json").read_text())
    assert work.model_qa(0.9)["verdict"] == "passed"
