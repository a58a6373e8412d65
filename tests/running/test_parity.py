"""Sail and the JVM write the same rows; `ml-pipelines parity` confirms it or shows the difference."""

import csv
import random
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import Result, change

from ml_pipelines.config import loading
from ml_pipelines.data import tables
from ml_pipelines.data.tables import Table
from ml_pipelines.running import parity

Shell = Callable[..., Result]

# fmt: off
NUMBERS = ["+3", "1e5", "1E-5", ".5", "5.", "-0", "-0.0", "007", "1e-300", "3.4e38", "9007199254740993", "0.1",
           "4.9e-324", "1234567.891", "123456789012345678901234567890", "NA", "nan", "NULL", "", "  7 "]
# fmt: on
WORDS = [
    "Köln",
    "two\nlines",
    'say "hi"',
    '"',
    "a, b",
    " blanks ",
    "雪",
    "back\\",
    "\\",
    "it's",
    "a\tb",
    "-",
    "e\u0301",
]
CODES = ["007", "1", "2.50", "x", "1e5", "true", "", "NA"]


def awkward_csv(path: Path) -> None:
    """Write a CSV with what engines may read differently: quotes, spellings of numbers, unusual names, blanks."""
    pick = random.Random(1)
    with path.open("w", newline="", encoding="utf-8-sig") as lines:
        writer = csv.writer(lines)
        writer.writerow(["", "Kunden-Nr.", "größe (m²)", "city", "score", "ok", "code", "class"])
        for i in range(600):
            cells = [pick.choice(NUMBERS), pick.choice([*WORDS, "", "null"]), repr(pick.gauss(0, 1))]
            more = [pick.choice(["true", "FALSE", ""]), pick.choice(CODES), pick.choice(["No", "yes"])]
            key = pick.choice([f"{i % 450}", f"{i % 450}.0", f" 0{i % 450}", f"k{i % 450}\xa0"])
            writer.writerow([i, key, *cells, *more])
            lines.write("\r\n" * (i % 50 == 0))


def run_parity(shell: Shell, *options: str, cwd: Path | None = None) -> Result:
    """Run the command in the project at `cwd`, or in this project."""
    if cwd is None:
        return shell("ml-pipelines", "parity", *options)
    return shell(sys.executable, "-c", "from ml_pipelines.cli.main import main; main()", "parity", *options, cwd=cwd)


@pytest.mark.slow
@pytest.mark.jvm
@pytest.mark.usefixtures("java")
@pytest.mark.parametrize("source", ["synthetic", "sample", "csv"])
def test_both_engines_write_the_same_rows(shell: Shell, tmp_path: Path, source: str) -> None:
    options = ["data.source.kind=" + source, "data.source.rows=9000", "data.key=null" if source == "sample" else ""]
    if source == "csv":
        awkward_csv(tmp_path / "my data.csv")
        options = [f"data.source.kind=file,data.source.path={tmp_path / 'my data.csv'}", "data.label=class"]
        options += ["data.key=Kunden-Nr.", "data.drop=[_c0]", "data.columns={code: category}"]
    result = run_parity(shell, *(f"--set={option}" for option in options if option))
    assert result.code == 0, result.text
    lines = result.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["test_uri", "train_uri"]
    assert all(line.endswith("the same on sail and jvm") for line in lines)
    rows = sum(int(line.split()[1].replace(",", "")) for line in lines)
    assert rows == {"synthetic": 9_000, "sample": 569, "csv": 600}[source]


@pytest.mark.slow
@pytest.mark.jvm
@pytest.mark.usefixtures("java")
def test_parity_shows_what_differs_between_the_engines(shell: Shell, project: Path) -> None:
    step = project / "steps" / "prepare_data.py"
    body = "from pyspark.sql import functions as F\n\n    high = F.when(F.col('f0') > 0, F.col('f0'))\n"
    split = "    frame = split_source(step)\n"
    change(step, split, f"{split}    {body}    frame = frame.withColumn('odd', F.isnan(high))\n")
    result = run_parity(shell, "--set=data.source.rows=200,data.source.features=2", cwd=project)
    assert result.code == 1, result.text
    assert "train_uri: row id=" in result.err
    assert "odd: sail None, jvm False" in result.err
    assert "the same" not in result.out


# -- the comparison, without the engines


@pytest.fixture
def compare_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that compares two frames as if the engines had written them."""

    def compare(sail: pl.DataFrame, jvm: pl.DataFrame, *overrides: str) -> list[str]:
        def write_rows(engine: str, *_: object) -> dict[str, Table]:
            uri = str(tmp_path / engine)
            {"sail": sail, "jvm": jvm}[engine].write_delta(uri)
            return {"train_uri": Table(uri, 0, *tables.measure_table(uri, 0))}

        monkeypatch.setattr(parity, "_prepare", write_rows)
        return parity.compare_engines("local", list(overrides), rows=10)

    return compare


ROWS = pl.DataFrame({"id": [1, 2, 3], "x": [float("nan"), None, 0.5], "city": ["a", "b", None]})


def test_rows_in_another_order_are_not_a_difference(compare_frames: Callable[..., list[str]]) -> None:
    assert compare_frames(ROWS, ROWS.reverse()) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        pytest.param(ROWS.with_columns(city=pl.lit("z")), "row id=1: city: sail 'a', jvm 'z'", id="cell"),
        pytest.param(
            ROWS.with_columns(x=pl.Series([float("nan"), 0.0, 0.5])), "row id=2: x: sail None, jvm 0.0", id="null"
        ),
        pytest.param(ROWS.head(2), "sail wrote 3 rows, jvm 2", id="rows"),
        pytest.param(ROWS.drop("city"), "columns differ: sail has city String, jvm has no others", id="columns"),
        pytest.param(ROWS.cast({"id": pl.Int32}), "columns differ: sail has id Int64, jvm has id Int32", id="types"),
        pytest.param(
            ROWS.with_columns(x=pl.Series([3.0, None, 0.5])), "row id=1: x: sail nan, jvm 3.0", id="not-a-number"
        ),
    ],
)
def test_parity_names_the_first_row_that_differs(
    compare_frames: Callable[..., list[str]], other: pl.DataFrame, message: str
) -> None:
    (line,) = compare_frames(ROWS, other)
    assert line.startswith(f"train_uri: {message}")


def test_parity_names_the_key_as_the_tables_do(compare_frames: Callable[..., list[str]]) -> None:
    rows = ROWS.rename({"id": "Kunden_Nr"})
    (line,) = compare_frames(rows, rows.with_columns(city=pl.lit("z")), "data.key=Kunden-Nr.")
    assert line == "train_uri: row Kunden_Nr=1: city: sail 'a', jvm 'z'"


# -- the excerpt of a user's file


def excerpt(path: Path, rows: int, folder: Path) -> Path:
    settings = loading.load("local", [f"data.source.kind=file,data.source.path={path}"])
    return Path(parity.excerpt(settings, rows, folder))


def test_an_excerpt_of_a_csv_is_its_first_rows_byte_for_byte(tmp_path: Path) -> None:
    lines = [b"\xef\xbb\xbfid,text\r\n", b'1,"two\r\nlines ""and"" more"\r\n', b"2,caf\xe9\r\n", b"3,x\r\n"]
    (tmp_path / "all.csv").write_bytes(b"".join(lines))
    assert excerpt(tmp_path / "all.csv", 2, tmp_path).read_bytes() == b"".join(lines[:3])


def test_an_excerpt_larger_than_the_csv_is_the_whole_csv(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_bytes(b"id,text\n1,a\n")
    assert excerpt(tmp_path / "all.csv", 50, tmp_path).read_bytes() == b"id,text\n1,a\n"


def test_an_excerpt_of_parquet_is_its_first_rows(tmp_path: Path) -> None:
    pl.DataFrame({"id": range(9)}).write_parquet(tmp_path / "all.parquet")
    assert pl.read_parquet(excerpt(tmp_path / "all.parquet", 4, tmp_path))["id"].to_list() == [0, 1, 2, 3]


def test_a_delta_table_is_used_without_an_excerpt(tmp_path: Path) -> None:
    pl.DataFrame({"id": range(9)}).write_delta(str(tmp_path / "table"))
    assert excerpt(tmp_path / "table", 4, tmp_path) == tmp_path / "table"


@pytest.mark.slow
def test_parity_refuses_a_source_that_prepare_data_refuses(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("id,x,label\n1,2,0\n3,4\n")
    result = run_parity(shell, f"--set=data.source.kind=file,data.source.path={tmp_path / 'bad.csv'}")
    assert result.code == 3, result.text
    assert "prepare_data failed on sail" in result.err
    assert "line 3 has 2 cells, but the header has 3" in result.err
    assert "Traceback" not in result.text
