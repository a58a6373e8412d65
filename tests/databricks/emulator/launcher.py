"""Launch a task on an emulated cluster, as the Databricks runtime does. The Python of the cluster runs this file."""

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
    """Make `SparkSession.builder.getOrCreate()` return a session of Sail if this is a Spark cluster."""
    if find_spec("pysail") is None:
        return
    os.environ.setdefault("RUST_LOG", "error")
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    atexit.register(server.stop)  # runs after the session has ended, because exit functions run in reverse order
    os.environ["SPARK_REMOTE"] = f"sc://127.0.0.1:{server.listening_address[1]}"


def run_wheel(package: str, entry_point: str, parameters: list[str]) -> None:
    """Call an entry point of an installed wheel."""
    [point] = {entry.value: entry for entry in distribution(package).entry_points if entry.name == entry_point}.values()
    sys.argv = [entry_point, *parameters]
    point.load()()


def run_file(path: str, parameters: list[str]) -> None:
    """Execute the text of a file as `__main__`, without `__file__`: a cluster does not define it."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = [path, *parameters]
    exec(compile(Path(path).read_text(), "<python file>", "exec"), main.__dict__)


def run(task: dict) -> None:
    """Run the task. Every exception is a failure, as on a cluster, even SystemExit(0)."""
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
