"""Small versions of `make chaos` (ten killed pipelines, not two hundred) and of `make simulate`."""

import random
import sys
from pathlib import Path

import pytest
from chaos import simulate_gate, simulate_metrics
from chaos.kills import Chaos
from chaos.simulate import LEAST, Case
from threadpoolctl import threadpool_limits


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="process ids are looked up in /proc")
def test_a_pipeline_killed_at_any_moment_finishes_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    chaos = Chaos(tmp_path)
    for _ in range(10):
        chaos.kill_and_run_again(random.SystemRandom().getrandbits(32), print)


@pytest.mark.slow
def test_the_gate_crowns_neither_a_worse_model_nor_noise() -> None:
    worse = [simulate_gate.duel(2_000, 1_000, 0.02, seed) for seed in range(50)]
    equal = [simulate_gate.duel(2_000, 1_000, 0.0, seed) for seed in range(50)]
    assert worse.count("passed") <= 2 and 10 <= equal.count("passed") <= 40
    assert "passed" not in [simulate_gate.noise(seed) for seed in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["default", "logistic regression"])
def test_the_gate_hardly_refuses_a_model_falsely(model: str) -> None:
    case = simulate_gate.Case(model, 1_000, 0.5, tables=12)
    with threadpool_limits(1):  # a small table gains nothing from threads
        results = [simulate_gate.refusal(case, table) for table in range(case.tables)]
    assert sum(bool(false) for _, false in results) <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "area", "least"),
    [
        (Case(200, 10, 1), 0.7, LEAST),
        (Case(200, 50, 1), 0.99, 94),  # 92.9 for the log loss without Hall's upper end
        (Case(4_000, 200, 5), 0.9, 94),  # 91.9 for precision with an effect of at most `alike`
    ],
)
def test_the_intervals_of_each_metric_cover_the_truth(case: Case, area: float, least: float) -> None:
    assert min(simulate_metrics.coverage(case, area, tables=2_000, seed=1)) >= least
