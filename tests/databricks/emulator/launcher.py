"""The launcher of a task on an emulated cluster, run by the cluster's own Python: it stands for the runtime's."""

import atexit
import json
import os
import sys
import traceback
import types
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path


def provide_spark() -> None:
    """Let `SparkSession.builder.getOrCreate()` find a session, on a Spark cluster: Sail stands for its Spark."""
    if find_spec("pysail") is None:
        return
    os.environ.setdefault("RUST_LOG", "error")
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    atexit.register(server.stop)  # after the session's own end, which is registered later
    os.environ["SPARK_REMOTE"] = f"sc://127.0.0.1:{server.listening_address[1]}"


def run_wheel(package: str, entry_point: str, parameters: list[str]) -> None:
    """Call a wheel's entry point, found by the metadata of what is installed."""
    [found] = {point.value: point for point in distribution(package).entry_points if point.name == entry_point}.values()
    sys.argv = [entry_point, *parameters]
    found.load()()


def run_file(path: str, parameters: list[str]) -> None:
    """Execute a file's text: as `__main__`, and without a `__file__`, since a cluster has none for it."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = [path, *parameters]
    exec(compile(Path(path).read_text(), "<python file>", "exec"), main.__dict__)


def run(task: dict) -> None:
    """Run the task. What it raises is its failure; SystemExit too, even of 0: a cluster takes it for one."""
    provide_spark()
    if "package_name" in task:
        run_wheel(task["package_name"], task["entry_point"], task["parameters"])
    else:
        run_file(task["python_file"], task["parameters"])


if __name__ == "__main__":
    outcome = Path(sys.argv[2])
    try:
        run(json.loads(sys.argv[1]))
    except BaseException as error:
        trace = traceback.format_exc()
        print(trace, file=sys.stderr, flush=True)
        outcome.write_text(json.dumps({"error": f"{type(error).__name__}: {error}", "error_trace": trace}))
        sys.exit(1)
