"""Tables and sources on S3 give the results of local folders, and what fails there is one line."""

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from conftest import Result, Store
from object_store import BUCKET, object_store
from pyarrow import fs

from ml_pipelines.cli import main
from ml_pipelines.errors import ConfigError
from ml_pipelines.tracking import lineage

Drive = Callable[..., Result]
TABLES = f"s3://{BUCKET}/tables"
ON_S3 = f"--set=data.delta_prefix.local={TABLES},experiment_name=on_s3"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run an S3 server for the tests of this module."""
    with object_store(tmp_path_factory.mktemp("s3") / "log") as found:
        yield found


@pytest.fixture
def s3(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> fs.FileSystem:
    """Give the programs of the test access to the server, and return its files."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return fs.FileSystem.from_uri(f"s3://{BUCKET}")[0]


def files(s3: fs.FileSystem, uri: str) -> list[str]:
    """Return the paths of the files below a URI."""
    below = fs.FileSelector(uri.removeprefix("s3://"), recursive=True, allow_not_found=True)
    return [found.path for found in s3.get_file_info(below) if found.type is fs.FileType.File]


def digests(store: Store) -> list[str]:
    """Return the digests of the newest training and test tables."""
    tags = store.child("prepare_data").data.tags
    return [tags[f"output.{name}_uri.digest"] for name in ("train", "test")]


def scored(store: Store) -> pl.DataFrame:
    """Return the newest scored table without the columns that differ between runs."""
    table = pl.read_delta(lineage.outputs(store.child("score"))["scored_uri"])
    return table.drop("scored_at", "model_name").sort("id")


@pytest.mark.timeout(600)
def test_both_pipelines_give_the_results_of_local_folders(drive: Drive, store: Store, s3: fs.FileSystem) -> None:
    batch = "--set=score.source.kind=synthetic,score.source.rows=300,score.source.features=4"
    results = []
    places = {"--set=experiment_name=on_disk": f"{store.tables.parent}/scores", ON_S3: f"s3://{BUCKET}/scores"}
    for where, target in places.items():
        trained = drive(where)
        assert trained.code == 0, trained.text
        result = drive("--pipeline=score", where, batch, f"--set=score.target={target}")
        assert result.code == 0, result.text
        results.append((store.metrics(), digests(store), scored(store).to_dicts()))
        assert pl.read_delta(target).height == 300
    assert results[0] == results[1]
    uri = lineage.outputs(store.child("score"))["scored_uri"]
    assert uri.startswith(f"{TABLES}/local/on_s3/pipeline_run_")
    assert any(path.endswith(".parquet") for path in files(s3, uri))
    assert "Up to date" in drive(ON_S3).text

    test_uri = lineage.outputs(store.child("prepare_data"))["test_uri"]
    [path] = [path for path in files(s3, test_uri) if path.endswith(".parquet")]
    s3.delete_file(path)
    again = drive(ON_S3)
    assert again.code == 0, again.text
    assert "ran: outputs are missing or damaged" in again.text
    assert digests(store) == results[0][1]


@pytest.mark.parametrize("kind", ["csv", "parquet", "delta"])
def test_a_source_gives_the_rows_of_a_local_file(kind: str, drive: Drive, store: Store, s3: fs.FileSystem) -> None:
    rows = pl.DataFrame(
        {
            "id": range(200),
            "kind": [("a b", "é", None)[i % 3] for i in range(200)],
            "size": [None if i % 7 == 0 else i / 7 for i in range(200)],
            "label": [i * 37 % 101 % 2 for i in range(200)],
        }
    )
    found = []
    for folder in (str(store.tables.parent), f"s3://{BUCKET}/sources"):
        path = f"{folder}/rows.{kind}"
        {"csv": rows.write_csv, "parquet": rows.write_parquet, "delta": rows.write_delta}[kind](path)
        result = drive("--only=prepare_data", f"--set=data.source.kind=file,data.source.path={path}")
        assert result.code == 0, result.text
        found.append(digests(store))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"s3://{BUCKET}/none.csv", f"s3://{BUCKET}/none.csv does not exist or is empty"),
        ("s3://nowhere/rows.parquet", "s3://nowhere/rows.parquet can't be read: "),
        (f"s3://{BUCKET}/none.delta", f"s3://{BUCKET}/none.delta can't be read: "),
    ],
)
def test_a_missing_source_is_one_line(path: str, message: str, drive: Drive, s3: fs.FileSystem) -> None:
    result = drive("--only=prepare_data", ON_S3, f"--set=data.source.kind=file,data.source.path={path}")
    assert result.code == 3
    [line] = [line for line in result.text.splitlines() if message in line]
    assert "✗ 01_prepare_data" in line
    assert "Traceback" not in result.text


def test_tables_that_break_the_contract_are_removed(drive: Drive, s3: fs.FileSystem) -> None:
    prefix = f"s3://{BUCKET}/refused"
    contract = "--set=contract.f0.type=number,contract.f0.max=0"
    result = drive("--only=prepare_data", f"--set=data.delta_prefix.local={prefix}", contract)
    assert result.code == 3
    assert not files(s3, prefix)


def test_clean_says_that_it_removes_only_local_tables(s3: fs.FileSystem) -> None:
    with pytest.raises(
        ConfigError, match="clean removes only local tables, and s3://lake/tables is in an object store"
    ):
        CliRunner().invoke(main.commands, ["clean", ON_S3], catch_exceptions=False)


def test_a_store_that_does_not_answer_is_one_line(
    shell: Drive, store: Store, s3: fs.FileSystem, tmp_path: Path
) -> None:
    prefix = f"--set=data.delta_prefix.local={TABLES}"
    closed = "http://127.0.0.1:9"
    result = shell("python", "driver.py", "--only=prepare_data", prefix, AWS_ENDPOINT_URL=closed)
    assert result.code == 4, result.text
    assert "Traceback" not in result.text
    assert "WARN" not in result.text
