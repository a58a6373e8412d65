"""Ten pipelines are killed with SIGKILL at random moments and run again (`make chaos` does two hundred)."""

import random
import sys
from pathlib import Path

import pytest
from chaos.kills import Chaos


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
