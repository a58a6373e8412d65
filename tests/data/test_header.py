"""Tests of the check of column names before a pipeline run starts."""

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import Result, Store

from ml_pipelines.config import loading
from ml_pipelines.data import header
from ml_pipelines.errors import BadData

Drive = Callable[..., Result]
TABLE = pl.DataFrame({"id": [1, 2], "x": [0.5, 1.5], "churned": ["no", "yes"]})
ABSENT = "data.label: the source has no column 'churn'. Did you mean churned? Set data.label to one of: id, x, churned."


def write_csv(path: Path) -> Path:
    TABLE.write_csv(path / "rows.csv", separator=";")
    return path / "rows.csv"


def write_gzip(path: Path) -> Path:
    (path / "rows.csv.gz").write_bytes(gzip.compress(TABLE.write_csv(separator=";").encode()))
    return path / "rows.csv.gz"


def write_parquet(path: Path) -> Path:
    TABLE.write_parquet(path / "rows.parquet")
    return path / "rows.parquet"


def write_folder(path: Path) -> Path:
    (path / "folder").mkdir()
    TABLE.drop("churned").write_parquet(path / "folder" / "1.parquet")
    TABLE.write_parquet(path / "folder" / "2.parquet")
    return path / "folder"


def write_delta(path: Path) -> Path:
    TABLE.write_delta(str(path / "table"))
    return path / "table"


@pytest.mark.parametrize("write", [write_csv, write_gzip, write_parquet, write_folder, write_delta])
def test_an_absent_label_is_refused_before_any_run(
    drive: Drive, store: Store, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    source = f"data.source.kind=file,data.source.path={write(tmp_path)},data.source.separator=;"
    result = drive(f"--set={source}", "--set=data.label=churn")
    assert (result.code, result.out, result.err) == (3, "", f"{ABSENT}\n")
    assert store.runs() == []


def test_a_dry_run_refuses_an_absent_column_too(drive: Drive) -> None:
    result = drive("--dry-run", "--set=data.columns.f99=number")
    assert (result.code, result.out) == (3, "")
    assert "data.columns: the source has no column 'f99'." in result.err


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_delta])
def test_a_header_with_all_columns_passes_whatever_the_rows_are(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    if path.suffix == ".csv":
        path.write_text(path.read_text() + "a line; that is; too; long\n")
    source = f"data.source.kind=file,data.source.path={path},data.source.separator=;"
    header.check_header(loading.load("local", [source, "data.label=churned"]).data)
    with pytest.raises(BadData, match=r"data.drop: the source has no column 'ids'\. Did you mean id\?"):
        header.check_header(loading.load("local", [source, "data.label=churned,data.drop=[ids],data.key=null"]).data)


@pytest.mark.parametrize(
    "source", ["{kind: table, table: main.sales.orders}", "{kind: file, path: 's3://bucket/rows.csv'}"]
)
def test_a_source_elsewhere_is_left_to_the_step(source: str) -> None:
    header.check_header(loading.load("local", [f"data.source={source}", "data.label=nowhere"]).data)
