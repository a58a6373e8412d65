"""Measure the pipeline against plain scripts and plain MLflow Projects. `make bench` runs this.

The contenders take turns. Each run is a whole process with a fresh copy of a migrated store.
The results go to results/<part>.json, and report.py makes the page from them.
"""

import argparse
import ast
import compileall
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import data
from process import Measured, machine, measure

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / ".data" / "bench"
PYTHON = sys.executable
SETTINGS = ",".join(
    (
        "steps.train.params.options.max_iter=50",
        "steps.feature_importance.params.rows=20000",
        "steps.model_qa.params.on_failure=warn",  # only the time is measured, not the quality of the model
    )
)
OPEN_STORE = "import mlflow, os; mlflow.MlflowClient(os.environ['MLFLOW_TRACKING_URI']).get_experiment('0')"
OFF = ("signature", "train_test_gap", "calibration", "single_column", "importance", "worst_slice", "drift", "champion")
ONE_CHECK = ",".join(f"steps.model_qa.params.checks.{name}=null" for name in OFF)
COLUMN = "{type: number, nullable: false, min: -100, max: 100}"
CONTRACT = f"contract={{{', '.join(f'f{number}: {COLUMN}' for number in range(20))}}}"
COLUMNS = (400, 800, 1_409, 1_600, 5_000)
LIBRARIES = ("mlflow", "scikit-learn", "polars", "deltalake", "pyspark", "pysail", "skops")
Results = dict[str, list[Measured]]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return a contender's environment: it may write bytecode, uses all threads, and has its store in `folder`."""
    unset = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "BENCH_NOOP")
    inherited = {
        name: value for name, value in os.environ.items() if name not in unset and not name.startswith("MLFLOW_")
    }
    path = f"{Path(PYTHON).parent}{os.pathsep}{inherited['PATH']}"
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**inherited, "PATH": path, **store, "MLFLOW_LOGGING_LEVEL": "WARNING", **more}


def fresh(name: str) -> Path:
    """Return a new folder that contains only a copy of a migrated store."""
    migrated, folder = WORK / "migrated", WORK / "runs" / name
    if not migrated.exists():
        migrated.mkdir(parents=True)
        measure([PYTHON, "-c", OPEN_STORE], migrated, environment(migrated))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(migrated, folder)
    return folder


def project(noop: bool) -> Path:
    """Return a copy of the project. With `noop` its steps only return their outputs."""
    copy = WORK / ("noop" if noop else "project")
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("ml_pipelines", "steps", "conf", "resources"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("driver.py", "MLproject"):
        shutil.copy(ROOT / name, copy)
    if noop:
        import yaml

        steps = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())["steps"]
        for name, step in steps.items():
            _empty(copy / "steps" / f"{name}.py", step["outputs"])
    compileall.compile_dir(copy, quiet=1)
    return copy


def _empty(path: Path, outputs: list[str]) -> None:
    """Reduce a step to its imports, its Params and a `run` that returns its outputs at once."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef) or node.name == "run"]
    tree.body[-1].body = ast.parse(f"def run():\n    return {dict.fromkeys(outputs, '1')}").body[0].body
    path.write_text(ast.unparse(tree))


class Contenders:
    """The commands that are measured. Each runs in a fresh folder, or again in the folder of an earlier run."""

    def __init__(self, rows: int) -> None:
        self.source = data.make(rows, WORK / "data")
        self.noop, self.project = project(noop=True), project(noop=False)

    def driver(self, folder: Path, *options: str, noop: bool = False, **more: str) -> Measured:
        """Run this project. A second run in the same `folder` finds the earlier results."""
        settings = (
            f"data.delta_prefix.local={folder}/delta,{SETTINGS},data.source.kind=file,data.source.path={self.source}"
        )
        arguments = [f"--set={settings}", *options]
        return measure(
            [PYTHON, "driver.py", *arguments], self.noop if noop else self.project, environment(folder, **more)
        )

    def mlflow_run(self, folder: Path) -> Measured:
        """Run the noop copy with `mlflow run . -e main`."""
        command = ["mlflow", "run", ".", "-e", "main", "--env-manager", "local", "--experiment-name", "bench"]
        return measure([str(Path(PYTHON).parent / command[0]), *command[1:]], self.noop, environment(folder))

    def script(self, folder: Path, name: str, *options: str, noop: bool = False) -> Measured:
        """Run a script of this folder with the source."""
        more = {"PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}", **({"BENCH_NOOP": "1"} if noop else {})}
        command = [PYTHON, str(HERE / name), str(self.source), str(folder), *options]
        return measure(command, folder, environment(folder, **more))

    def loop(self, folder: Path, model: Path, *options: str) -> Measured:
        """Score the source with a model, without a pipeline."""
        shutil.rmtree(target := folder / "scored", ignore_errors=True)
        command = [PYTHON, str(HERE / "scoring.py"), str(self.source), str(model), str(target), *options]
        return measure(command, folder, environment(folder))

    def projects(self, folder: Path, noop: bool) -> Measured:
        """Run a copy of the ordinary MLflow project, because MLflow puts artifacts below the working directory."""
        shutil.copytree(HERE / "projects_ordinary", folder, dirs_exist_ok=True)
        more = {"PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}", **({"BENCH_NOOP": "1"} if noop else {})}
        return measure([PYTHON, "step.py", "main", str(self.source), str(folder)], folder, environment(folder, **more))

    def whole(self, noop: bool = False) -> dict[str, Callable[[Path], Measured]]:
        """Return the contenders that run all five steps."""
        return {
            "ours": lambda folder: self.driver(folder, noop=noop),
            "floor": lambda folder: self.script(folder, "floor.py", noop=noop),
            "plain": lambda folder: self.script(folder, "work.py", noop=noop),
            "projects": lambda folder: self.projects(folder, noop),
        }


def take_turns(contenders: Mapping[str, Callable[[Path], Measured]], rounds: int) -> Results:
    """Run the contenders in turn, `rounds` times, and return contender -> its runs."""
    results: Results = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            results[name].append(run(fresh(name)))
            _say(name, results[name][-1])
    return results


def _say(name: str, measured: Measured) -> None:
    print(f"  {name:<28}{measured.seconds:7.2f} s {measured.peak_mb:8.0f} MB", flush=True)


def noop(contenders: Contenders, rounds: int) -> Results:
    """Measure five steps that do nothing, which shows the cost of the orchestration."""
    all_contenders = contenders.whole(noop=True) | {
        "mlflow run": contenders.mlflow_run,
        "import mlflow.cli": lambda folder: _python("import mlflow.cli", folder),
    }
    return take_turns(all_contenders, rounds)


def _python(code: str, folder: Path) -> Measured:
    return measure([PYTHON, "-c", code], folder, environment(folder))


def full(contenders: Contenders, rounds: int) -> Results:
    """Measure all five steps on fresh stores."""
    return take_turns(contenders.whole(), rounds)


def again(contenders: Contenders, rounds: int) -> Results:
    """Measure this project on a store with a finished run: unchanged, and with one changed param of train."""
    results: Results = {"nothing changed": [], "import mlflow, open store": [], "one knob of train": []}
    for number in range(rounds):
        folder = fresh("again")
        contenders.driver(folder)
        unchanged = contenders.driver(folder)
        opened = _python(OPEN_STORE, folder)
        knob = f"--set=steps.train.params.options.learning_rate={0.09 + number / 1000}"
        changed = contenders.driver(folder, knob)
        if (
            "nothing has changed" not in unchanged.text
            or "reused" not in changed.text.split("01_prepare_data")[1][:200]
        ):
            raise RuntimeError(f"the steps were not reused as expected:\n{unchanged.text}\n{changed.text}")
        for name, measured in zip(results, (unchanged, opened, changed), strict=True):
            results[name].append(measured)
            _say(name, measured)
    return results


def pair(contenders: Contenders, rounds: int) -> Results:
    """Measure evaluate and feature_importance, from the first start to the last end. The store has the times."""
    folder = fresh("pair")
    contenders.driver(folder)
    only = ("--only=evaluate", "--only=feature_importance", "--force=all")
    in_turn = "--set=max_parallel=1"
    variants: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
        "side by side": ((), {}),
        "in turn, all threads": ((in_turn,), {}),
        "in turn, one thread": ((in_turn,), {"OMP_NUM_THREADS": "1"}),
    }
    results: Results = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (options, more) in variants.items():
            measured = contenders.driver(folder, *only, *options, **more)
            with sqlite3.connect(folder / "mlflow.db") as store:
                spans = store.execute(
                    "select start_time, end_time from runs order by start_time desc limit 2"
                ).fetchall()
            seconds = (max(end for _, end in spans) - min(start for start, _ in spans)) / 1000
            results[name].append(Measured(seconds, measured.peak_mb, ""))
            _say(name, results[name][-1])
    return results


def checks(contenders: Contenders, rounds: int) -> Results:
    """Measure the contract, the quality gate and the report. The store has the seconds of their steps."""
    variants = {"without": f"--set={ONE_CHECK}", "with": f"--set={CONTRACT}"}
    results: Results = {}
    for _ in range(rounds):
        for variant, options in variants.items():
            folder = fresh("checks")
            measured = contenders.driver(folder, options)
            ended = time.time()
            with sqlite3.connect(folder / "mlflow.db") as store:
                runs = store.execute("select name, start_time / 1000.0, end_time / 1000.0 from runs").fetchall()
            seconds = {name: end - start for name, start, end in runs}
            last = max(end for name, _, end in runs if name == "05_model_qa")
            parts = {
                f"prepare_data, {variant} a contract": seconds["01_prepare_data"],
                f"model_qa, {'all checks' if variant == 'with' else 'one check'}": seconds["05_model_qa"],
                "after the steps: the report, and the end": ended - last,
            }
            for name, value in parts.items():
                results.setdefault(name, []).append(Measured(round(value, 3), measured.peak_mb, ""))
                _say(name, results[name][-1])
    return results


def prepare(contenders: Contenders, rounds: int) -> Results:
    """Measure prepare_data alone, as a whole process with its imports."""
    return take_turns({"prepare_data": lambda folder: contenders.driver(folder, "--only=prepare_data")}, rounds)


def wide(contenders: Contenders, rounds: int) -> Results:
    """Measure prepare_data on 300 rows of many columns, in one process. The seconds are processor seconds."""
    results: Results = {f"{columns:,} columns": [] for columns in COLUMNS}
    for _ in range(rounds):
        for name, columns in zip(results, COLUMNS, strict=True):
            source = f"data.source.kind=file,data.source.path={data.make_wide(columns, WORK / 'data')}"
            options = ("--only=prepare_data", f"--set=backend=inline,{source}")
            measured = contenders.driver(fresh("wide"), *options)
            results[name].append(replace(measured, seconds=measured.processor_s))
            _say(name, results[name][-1])
    return results


def score(contenders: Contenders, rounds: int) -> Results:
    """Measure the pipeline `score` against a bare loop, and a batch of 1,000 rows against the import of MLflow."""
    folder = fresh("score")
    contenders.driver(folder, f"--set=data.source.path={data.make(200_000, WORK / 'data')}")
    model = next((folder / "mlruns").rglob("*.skops"))
    options, batch = ("--pipeline=score", "--force=all"), data.make(1_000, WORK / "data")

    def ours(source: Path) -> Measured:
        shutil.rmtree(folder / "delta", ignore_errors=True)
        return contenders.driver(folder, *options, f"--set=score.source.kind=file,score.source.path={source}")

    contestants: dict[str, Callable[[], Measured]] = {
        "ours": lambda: ours(contenders.source),
        "bare loop": lambda: contenders.loop(folder, model),
        "all in memory": lambda: contenders.loop(folder, model, "--memory"),
        "1,000 rows": lambda: ours(batch),
        "import mlflow, open store": lambda: _python(OPEN_STORE, folder),
    }
    results: Results = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            results[name].append(run())
            _say(name, results[name][-1])
    return results


def growth(contenders: Contenders, rounds: int) -> Results:
    """Measure time and memory of this project, of the tracked script, and of the estimator alone."""
    whole = contenders.whole()
    bare = {"bare fit": lambda folder: contenders.script(folder, "work.py", "--bare")}
    return take_turns({"ours": whole["ours"], "floor": whole["floor"], **bare}, rounds)


PARTS = {part.__name__: part for part in (noop, full, again, pair, checks, prepare, wide, score, growth)}


def save(name: str, results: Results, rows: int, load: float) -> None:
    """Write the results of a part, with the machine and the versions of the libraries."""
    content = {
        "rows": rows,
        "machine": machine(),
        "versions": {library: version(library) for library in LIBRARIES},
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "seconds": {contender: [run.seconds for run in runs] for contender, runs in results.items()},
        "peak_mb": {contender: [run.peak_mb for run in runs] for contender, runs in results.items()},
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Measure the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to measure: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--growth", type=int, nargs="*", default=[2_000, 200_000, 2_000_000], metavar="ROWS")
    parser.add_argument("--score", type=int, nargs="*", default=[2_000_000], metavar="ROWS")
    parser.add_argument(
        "--large", action="store_true", help="measure growth and score up to 20,000,000 rows too, with one round of it"
    )
    options = parser.parse_args()
    large = [20_000_000] if options.large else []
    sizes = {"growth": options.growth + large, "score": options.score + large}
    for name in options.parts or PARTS:
        for rows in sizes.get(name, [options.rows]):
            print(f"{name}, {rows:,} rows", flush=True)
            load = os.getloadavg()[0]
            results = PARTS[name](Contenders(rows), 1 if rows >= 20_000_000 else options.rounds)
            save(f"{name}_{rows}" if name in sizes else name, results, rows, load)
    shutil.rmtree(WORK / "runs", ignore_errors=True)


if __name__ == "__main__":
    main()
