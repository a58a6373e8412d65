"""Reads file sources on an engine and shows their rows as text, so that two engines can be compared.

As a command, `python tests/reading.py jvm` reads sources from JSON on standard input, in a process of its own: a
process can use only one engine.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Reading:
    """A source to read: its path, fields of `Source`, and the columns that are dropped."""

    path: str
    fields: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """The columns with their Spark types, and the sorted rows with all cells as text; or the error."""

    types: dict[str, str]
    rows: list[list[str | None]]
    error: str = ""


def show(spark: "SparkSession", reading: Reading) -> Shown:
    """Read a source and return its rows as text."""
    from pyspark.sql import functions as F

    from ml_pipelines.config.schema import FileFormat, Source, SourceKind
    from ml_pipelines.data.sources import read_source
    from ml_pipelines.errors import BadData

    fields = {**reading.fields, "format": FileFormat(reading.fields.get("format", "auto"))}
    source = Source(kind=SourceKind.file, path=reading.path, **fields)
    with tempfile.TemporaryDirectory() as folder:
        try:
            frame = read_source(spark, source, 1, frozenset(reading.dropped), Path(folder)).frame
            types = dict(frame.dtypes)
            cells = {name: F.col("`" + name.replace("`", "``") + "`") for name in types}
            texts = [F.hex(c) if types[name] == "binary" else c.cast("string") for name, c in cells.items()]
            shown = frame.select(*texts)
            return Shown(types, sorted(([*row] for row in shown.collect()), key=repr))
        except BadData as error:
            return Shown({}, [], str(error))


def show_on_jvm(readings: Sequence[Reading]) -> list[Shown]:
    """Read the sources on the JVM engine, in one process."""
    given = json.dumps([vars(reading) for reading in readings])
    command = [sys.executable, str(ROOT / "tests" / "reading.py"), "jvm"]
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False, cwd=ROOT, timeout=400)
    assert result.returncode == 0, result.stderr[-3000:]
    return [Shown(**shown) for shown in json.loads(result.stdout.splitlines()[-1])]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from ml_pipelines.data.engines import spark_session

    session = spark_session(sys.argv[1])
    print(json.dumps([vars(show(session, Reading(**reading))) for reading in json.load(sys.stdin)]))
