"""Measure Kedro, Metaflow, Dagster and DVC with the same five functions, each in its own environment.

`make bench-peers` runs this. None of them logs to MLflow here, so compare them with the plain script
(docs/benchmarks.md).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import data
from bench import HERE, ROOT, WORK, take_turns
from process import Measured, machine, measure

PEERS = ("kedro", "metaflow", "dagster", "dvc")
LIBRARIES = ("numpy", "polars", "deltalake", "pyarrow", "scikit-learn", "pandas", "matplotlib")
ADAPTERS = HERE / "peers"


def install(peer: str, uv: str) -> str:
    """Return the version of the peer. Create its environment first if needed, with our versions of the libraries.

    Raises:
        CalledProcessError: the peer can't be installed on this machine.
    """
    home = WORK / "peers" / peer
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        pins = [f"{name}=={version(name)}" for name in LIBRARIES]
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)], check=True)
        command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), peer, *pins]
        subprocess.run(command, check=True)
        (home / "ready").touch()
    code = f"from importlib.metadata import version; print(version({peer!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def run(peer: str, source: Path, folder: Path, noop: bool, again: bool = False) -> Measured:
    """Run a peer's pipeline in `folder`."""
    binaries = WORK / "peers" / peer / "bin"
    removed = ("PYTHONDONTWRITEBYTECODE", "BENCH_NOOP")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
        "BENCH_SOURCE": str(source),
        "BENCH_FOLDER": str(folder),
        "USERNAME": "bench",  # Metaflow needs a user name
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "KEDRO_DISABLE_TELEMETRY": "1",
        "DVC_NO_ANALYTICS": "1",
        **({"BENCH_NOOP": "1"} if noop else {}),
    }
    if peer == "dvc":
        if not again:
            shutil.copytree(ADAPTERS / "dvc", folder, dirs_exist_ok=True)
            (folder / "params.yaml").write_text(f"source: {source}\n")
            measure([str(binaries / "dvc"), "init", "--no-scm", "--quiet"], folder, environment)
        return measure([str(binaries / "dvc"), "repro"], folder, environment)
    arguments = ["run"] if peer == "metaflow" else [str(source), str(folder)]
    return measure([str(binaries / "python"), str(ADAPTERS / f"run_{peer}.py"), *arguments], folder, environment)


def main() -> None:
    """Measure the peers that can be installed, and record why the others can't."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--uv", default=str(Path(sys.executable).with_name("uv")))
    options = parser.parse_args()
    source, load = data.make(options.rows, WORK / "data"), os.getloadavg()[0]
    versions, missing = {}, {}
    for peer in PEERS:
        try:
            versions[peer] = install(peer, options.uv)
            for noop in (True, False):  # a warm-up that is not measured: it writes the bytecode
                folder = WORK / "runs" / "peer"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                run(peer, data.make(2_000, WORK / "data"), folder, noop)
        except (subprocess.CalledProcessError, RuntimeError) as error:
            missing[peer] = str(error).strip().splitlines()[-1][:300]
            print(f"{peer}: {missing[peer]}", flush=True)
    installed = [peer for peer in PEERS if peer not in missing]

    def contenders(noop: bool) -> dict:
        return {peer: lambda folder, peer=peer: run(peer, source, folder, noop) for peer in installed}

    measured = {
        "noop": take_turns(contenders(True), options.rounds),
        "full": take_turns(contenders(False), options.rounds),
    }
    if "dvc" in installed:  # the folder of its last full run still exists
        folder = WORK / "runs" / "dvc"
        measured["again"] = {"dvc": [run("dvc", source, folder, False, again=True) for _ in range(options.rounds)]}
    results = {
        "rows": options.rows,
        "machine": machine(),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "versions": versions,
        "missing": missing,
        "seconds": {
            part: {peer: [r.seconds for r in runs] for peer, runs in runs_of.items()}
            for part, runs_of in measured.items()
        },
        "peak_mb": {
            part: {peer: [r.peak_mb for r in runs] for peer, runs in runs_of.items()}
            for part, runs_of in measured.items()
        },
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "peers.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
