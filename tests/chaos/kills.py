"""Kill the pipeline with SIGKILL at a random moment, then run it again, and check what must always hold.

`make chaos` does this two hundred times, a slow test ten times. Each kill prints its seed; `python -m chaos.kills SEED`
(with PYTHONPATH=.:tests) repeats that kill, as far as its timing can be repeated.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from conftest import FAST, ROOT, Store

Say = Callable[[str], object]
NAMES = ["01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa"]
MISSES = 5  # in a row: the run ended before the kill, since it was faster than the runs before


class Chaos:
    """A folder of stores; the metrics of an undisturbed run, and the seconds that a run takes after its first line."""

    def __init__(self, folder: Path) -> None:
        self._empty = folder / "empty.db"
        subprocess.run(
            [sys.executable, "-c", "from ml_pipelines.tracking import opening; opening.migrate()"],
            env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{self._empty}"},
            cwd=ROOT,
            check=True,
        )
        self._folder = folder
        store, (code, self.took_s, text) = self._store("undisturbed"), (1, 0.0, "")
        with self._driver(store) as process:
            code, self.took_s, text = _to_the_end(process)
        assert code == 0, text
        self.metrics = store.metrics()
        assert store.statuses() == dict.fromkeys(NAMES, "FINISHED")

    def kill_and_run_again(self, seed: int, say: Say) -> None:
        """Kill one pipeline run, run it again, and assert everything that must hold."""
        draw = random.Random(seed)
        for attempt in range(MISSES):
            store, fraction = self._store(f"{seed}_{attempt}"), draw.random()
            with self._driver(store) as process:
                first = process.stdout.readline() if process.stdout else ""
                time.sleep(fraction * self.took_s)  # until the random moment
                hit = process.poll() is None
                process.kill()
                process.wait()
                assert _all_gone(process.pid), "a process outlived its driver"
            if hit and store.parent().info.status == "RUNNING":
                break
            self.took_s *= fraction  # the machine is faster than before: the run was over within this time
        else:
            raise AssertionError(f"seed {seed}: the pipeline was over before the kill, {MISSES} times: {first}")
        finished_steps = {name for name, status in store.statuses().items() if status == "FINISHED"}
        with self._driver(store) as process:
            code, _, text = _to_the_end(process)
        say(
            f"seed {seed}: killed at {fraction:.2f} of {self.took_s:.1f} s, "
            f"with {len(finished_steps)} of 5 steps finished"
        )
        assert code == 0, text
        assert "Marked as KILLED" in text
        assert {run.info.status for run in store.runs()} <= {"FINISHED", "KILLED"}
        assert store.parent().info.status == "FINISHED"
        assert store.metrics() == self.metrics
        reused_steps = {name for name, run in store.below().items() if "reused_from" in run.data.tags}
        assert reused_steps == finished_steps, f"finished before the kill: {finished_steps}, reused: {reused_steps}"

    def _store(self, name: str) -> Store:
        folder = self._folder / name
        folder.mkdir()
        shutil.copy(self._empty, folder / "mlflow.db")
        return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")

    @contextmanager
    def _driver(self, store: Store):  # type: ignore[no-untyped-def]
        """Run driver.py on few rows, in a session of its own."""
        command = [sys.executable, "driver.py", f"--set=data.delta_prefix.local={store.tables}", f"--set={FAST}"]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": store.uri}
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _to_the_end(process: subprocess.Popen[str]) -> tuple[int, float, str]:
    """Return the exit code, the seconds since the first line, and the output."""
    assert process.stdout
    first, started = process.stdout.readline(), time.monotonic()
    rest = process.stdout.read()
    return process.wait(), time.monotonic() - started, first + rest


def _all_gone(session: int, within_s: float = 10.0) -> bool:
    """Return whether every process of a session has ended in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(_alive(folder, session) for folder in Path("/proc").glob("[0-9]*")):
            return True
        time.sleep(0.02)
    return False


def _alive(folder: Path, session: int) -> bool:
    try:
        state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return False
    return int(its_session) == session and state not in "ZX"


def main(seeds: list[int]) -> int:
    """Kill one pipeline run for each seed; return the exit code."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder))
        for seed in seeds:
            try:
                chaos.kill_and_run_again(seed, print)
            except AssertionError as error:
                wrong += 1
                sys.stdout.write(f"seed {seed}: {error}\n")
    sys.stdout.write(f"pipelines killed and run again: {len(seeds) - wrong} of {len(seeds)} as promised\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main([int(text) for text in sys.argv[1:]] or [random.SystemRandom().getrandbits(32) for _ in range(200)]))
