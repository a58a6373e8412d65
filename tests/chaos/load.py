"""Many pipelines on one store: one after another, and eight at once. `make load`; a slow test runs a tenth."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conftest import FAST, ROOT, Store

ONE_BY_ONE = """
import sys
sys.path[:0] = {path!r}
from chaos import load
load.one_after_another({count}, {tables!r})
"""


def one_after_another(count: int, tables: str) -> None:
    """Run `count` pipelines in this process, each with its own seed; print the resident memory after each."""
    from click.testing import CliRunner

    import driver

    for seed in range(count):
        options = [f"--set=data.delta_prefix.local={tables},{FAST},seed={seed}", "--backend=forkserver"]
        result = CliRunner().invoke(driver.main, options)
        assert result.exit_code == 0, result.output
        sys.stdout.write(f"resident {_resident_mb():.1f}\n")
        sys.stdout.flush()


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def serial(store: Store, count: int) -> list[float]:
    """Run pipelines one after another; return the driver's resident memory after each, in MB."""
    code = ONE_BY_ONE.format(path=[str(ROOT), str(ROOT / "tests")], count=count, tables=str(store.tables))
    script = store.tables.parent / "serial.py"
    script.write_text(code)
    result = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env=_environment(store), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [float(line.split()[1]) for line in result.stdout.splitlines() if line.startswith("resident ")]


def at_once(store: Store, count: int) -> None:
    """Start pipelines at once, each with its own seed, and wait for all."""
    base = [sys.executable, "driver.py", "--backend=forkserver", f"--set=data.delta_prefix.local={store.tables},{FAST}"]
    drivers = [
        subprocess.Popen(
            [*base, f"--set=seed={1_000 + i}"],
            cwd=ROOT,
            env=_environment(store),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(count)
    ]
    outputs = [driver.communicate()[0] for driver in drivers]
    assert all(driver.returncode == 0 for driver in drivers), "\n".join(outputs)


def check(store: Store, pipelines: int) -> None:
    """Assert that every pipeline finished with its own five steps and its own tables."""
    parents = store.runs("tags.`mlflow.runName` = 'pipeline_run'")
    assert len(parents) == pipelines
    assert {run.info.status for run in store.runs()} == {"FINISHED"}
    uris = set()
    for parent in parents:
        below = store.below(parent)
        assert len(below) == 5
        uris.add(below["01_prepare_data"].data.tags["output.train_uri"])
        assert all("reused_from" not in run.data.tags for run in below.values())
    assert len(uris) == pipelines


def sizes(store: Store) -> str:
    """Return the sizes of the store and the tables."""
    folder = store.tables.parent
    parts = {
        "database": folder / "mlflow.db",
        "artifacts": folder / "mlruns",
        "tables": store.tables,
    }
    return ", ".join(f"{name} {_size(path) / 1e6:.1f} MB" for name, path in parts.items())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _environment(store: Store) -> dict[str, str]:
    return {**os.environ, "MLFLOW_TRACKING_URI": store.uri}


def main() -> int:
    """Run 50 pipelines one after another and 8 at once, and print the measurements."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/mlflow.db", Path(folder, "delta"))
        started = time.monotonic()
        memory = serial(store, 50)
        say = sys.stdout.write
        say(f"50 pipelines one after another: {time.monotonic() - started:.0f} s; driver's memory after the ")
        say(f"5th {memory[4]:.0f} MB, the 50th {memory[-1]:.0f} MB; {sizes(store)}\n")
        started = time.monotonic()
        at_once(store, 8)
        check(store, 58)
        say(f"8 at once: {time.monotonic() - started:.0f} s, all right; {sizes(store)}\n")
        return int(memory[-1] > memory[4] * 1.2)


if __name__ == "__main__":
    sys.exit(main())
