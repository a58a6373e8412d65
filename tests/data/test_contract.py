"""Tests of the data contract: a violation stops the run, and the data meets the contract proposed for it."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from conftest import ROOT, Result, Store, drive_in, use
from pandera.config import ValidationDepth, config_context

from ml_pipelines.cli import main
from ml_pipelines.config import loading
from ml_pipelines.config.schema import Column, ColumnType
from ml_pipelines.data import contract, tables
from ml_pipelines.errors import ConfigError
from ml_pipelines.planning import fingerprint
from ml_pipelines.planning.memory import Memory
from ml_pipelines.system import paths

COUNT = 400
GOOD = pl.DataFrame(
    {
        "id": range(COUNT),
        "age": [18.0 + i % 60 for i in range(COUNT)],
        "colour": [["red", "no", "a, b"][i % 3] for i in range(COUNT)],
        "income": [None if i % 10 == 0 else i * 1.5 for i in range(COUNT)],
        "order": [f"o{i}" for i in range(COUNT)],
        "label": [i // 7 % 2 for i in range(COUNT)],
    }
)
Report = list[dict[str, Any]]


def broken(row: int, **cells: Any) -> pl.DataFrame:
    """Return the good rows with changed cells in one row."""
    return GOOD.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in cells.items()
    )


@pytest.fixture(scope="module")
def opened(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return one store for all tests of this file."""
    folder = tmp_path_factory.mktemp("contract")
    shutil.copy(migrated, folder / "mlflow.db")
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")


@pytest.fixture
def prepare(opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, Store]]:
    """Return a function that runs prepare_data on rows under a contract; the tables belong to this test only."""
    own = Store(opened.uri, tmp_path / "delta")
    use(own, monkeypatch)

    def run(rows: pl.DataFrame, *columns: str, profile: str = "local") -> tuple[Result, Store]:
        rows.write_parquet(tmp_path / "rows.parquet")
        source = f"data.source.kind=file,data.source.path={tmp_path / 'rows.parquet'}"
        settings = [f"--set={setting}" for setting in (source, *(f"contract.{column}" for column in columns))]
        where = ["--backend=inline", f"--profile={profile}"]
        return drive_in(own, "--only=prepare_data", *where, *settings, small=False), own

    return run


Prepare = Callable[..., tuple[Result, Store]]


def artifact(store: Store, name: str) -> Report:
    """Return the rows of a table that prepare_data's newest run logged for MLflow's page."""
    run = store.child("prepare_data")
    assert {"path": name, "type": "table"} in json.loads(run.data.tags["mlflow.loggedArtifacts"])
    content = json.loads(store.artifact(run, name).read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [
        (
            GOOD,
            "size={type: number}",
            "column size is missing; the columns are id, age, colour, income, order, label",
        ),
        (GOOD, "age={type: text}", "column age: 400 of 400 values are not text but Float64 ("),
        (GOOD, "colour={type: boolean}", "column colour: 400 of 400 values are not booleans but String ("),
        (GOOD, "id={type: boolean}", "column id: 400 of 400 values are not booleans but Int64 ("),
        (broken(7, age=20.5), "age={type: integer}", "column age: 1 of 400 values are not integers (20.5, id 7)"),
        (broken(7, age=17.0), "age={type: number, min: 18}", "column age: 1 of 400 values are below 18 (17.0, id 7)"),
        (
            broken(7, age=17.0).rename({"age": "age (years)"}),
            "age_years={type: number, min: 18}",
            "column age_years ('age (years)' in the source): 1 of 400 values are below 18 (17.0, id 7)",
        ),
        (broken(8, age=99.0), "age={type: integer, max: 77}", "column age: 1 of 400 values are above 77 (99.0, id 8)"),
        (broken(9, colour="blue"), "colour={type: text, categories: [red, 'no', 'a, b']}", "('blue', id 9)"),
        (broken(6, age=None), "age={type: number, min: 18}", "column age: 1 of 400 values are missing (id 6)"),
        (broken(6, age=float("nan")), "age={type: integer}", "column age: 1 of 400 values are missing (id 6)"),
        (GOOD, "income={type: number, unique: true}", "column income: 40 of 400 values are missing (id "),
        (
            broken(5, id=4),
            "id={type: integer, unique: true}",
            "column id: 2 of 400 values occur more than once (4)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)
def test_a_violation_gives_exit_code_3_one_message_and_no_table(
    prepare: Prepare, rows: pl.DataFrame, column: str, message: str
) -> None:
    result, store = prepare(rows, column)
    assert result.code == 3, result.text
    assert len([line for line in result.text.splitlines() if message in line]) == 1, result.text
    assert "Traceback" not in result.text
    assert store.child("prepare_data").info.status == "FAILED"
    assert list(store.tables.iterdir()) == []  # the prefix, which may be the user's own folder, stays


def test_the_report_lists_every_violation_with_example_rows(prepare: Prepare) -> None:
    rows = broken(11, age=-1.0, colour="blue").with_columns(income=pl.col("income") * -1)
    columns = ["age={type: number, min: 0}", "colour={type: text, categories: [red]}", "size={type: text}"]
    result, store = prepare(rows, *columns, "income={type: number, nullable: true, min: -9}", "label={type: integer}")
    assert ", and 3 more." in result.text
    report = artifact(store, "contract_violations.json")
    assert {(row["column"], row["rule"], row["count"]) for row in report} == {
        ("age", "min", 1),
        ("colour", "categories", 266),
        ("size", "column", 0),
        ("income", "min", 354),
    }
    assert len(report) == 1 + 5 + 1 + 5
    for row in report:
        if row["rule"] != "column":
            shown = json.loads(row["row"])
            assert shown == rows.row(by_predicate=pl.col("id") == shown["id"], named=True)
            assert row["value"] == str(shown[row["column"]])
            assert (row["rows"], row["table"] in ("train", "test")) == (400, True)


def test_a_violation_in_the_test_table_alone_is_reported(prepare: Prepare) -> None:
    _, store = prepare(GOOD)
    (table,) = store.tables.rglob("test")
    first = pl.scan_delta(str(table)).select("id").head(1).collect().item()
    _, store = prepare(broken(first, age=-1.0), "age={type: number, min: 0}")
    (row,) = artifact(store, "contract_violations.json")
    assert (row["table"], json.loads(row["row"])["id"]) == ("test", first)
    assert len(list(store.tables.rglob("_delta_log"))) == 2  # the good rows' tables stay


def test_a_value_in_both_tables_is_not_unique(prepare: Prepare) -> None:
    _, store = prepare(GOOD)
    train_id, test_id = (
        pl.scan_delta(str(path)).select("id").head(1).collect().item()
        for name in ("train", "test")
        for path in store.tables.rglob(name)
    )
    result, store = prepare(broken(train_id, order=f"o{test_id}"), "order={type: text, unique: true}")
    assert f"column order: 2 of 400 values occur more than once ('o{test_id}', id {train_id})" in result.text
    assert [row["table"] for row in artifact(store, "contract_violations.json")] == ["train", "test"]


def test_data_that_meets_the_contract_is_written(prepare: Prepare) -> None:
    columns = ["id={type: integer, unique: true}", "age={type: integer, min: 18, max: 77}"]
    columns += [
        "income={type: number, nullable: true, unique: true}",
        "colour={type: text, categories: [red,'no','a, b']}",
    ]
    result, store = prepare(GOOD, *columns)
    assert result.code == 0, result.text
    assert len(list(store.tables.rglob("_delta_log"))) == 2


def test_without_a_contract_pandera_is_not_imported(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandera.polars", None)
    result, _ = prepare(GOOD)
    assert result.code == 0, result.text
    assert "import of pandera.polars halted" in prepare(GOOD, "age={type: number}")[0].text


@pytest.fixture
def write_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that writes the profile `mine`: local.yaml with a text added at its end."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "MLproject").symlink_to(ROOT / "MLproject")
    monkeypatch.setattr(paths, "root", lambda: tmp_path)

    def write(text: str) -> None:
        local = (ROOT / "conf" / "local.yaml").read_text()
        (tmp_path / "conf" / "mine.yaml").write_text(f"{local}\n{text}")

    return write


AWKWARD = GOOD.with_columns(
    api_key=pl.Series(
        [["no", "010", "1:30", "null", "x: [y", "Ärger", "it's", '"', "#", "a\\b"][i % 10] for i in range(COUNT)]
    ),
    no=pl.Series([f"${{{i % 3}}}" for i in range(COUNT)]),
    tiny=pl.Series([1e-12 * i for i in range(COUNT)]),
    huge=pl.Series([1e30 * (i - 7) for i in range(COUNT)]),
    constant=pl.Series([-4.0] * COUNT),
    flag=pl.Series([None, True, False, True] * (COUNT // 4)),
    late=pl.Series([float(i) if i > 50 else float("nan") for i in range(COUNT)]),
)


@pytest.mark.parametrize("rows", [GOOD, AWKWARD], ids=["good", "awkward"])
def test_the_data_meets_its_proposed_contract(
    prepare: Prepare, write_profile: Callable[[str], None], rows: pl.DataFrame
) -> None:
    first, _ = prepare(rows)
    assert first.code == 0, first.text
    proposal = CliRunner().invoke(main.commands, ["contract"])
    assert proposal.exit_code == 0, proposal.output
    write_profile(proposal.stdout)
    assert list(loading.load("mine").contract) == [*rows.drop("label").columns, "label"]
    result, _ = prepare(rows, profile="mine")
    assert result.code == 0, result.text
    worse, _ = prepare(rows.with_columns(age=-pl.col("age")), profile="mine")
    assert "column age: 400 of 400 values are below 12" in worse.text


def test_a_proposal_names_the_run_that_it_describes(prepare: Prepare) -> None:
    _, store = prepare(GOOD)
    earlier = store.parent().info.run_id
    prepare(GOOD.with_columns(age=pl.col("age") + 100))
    latest_proposal, earlier_proposal = (
        CliRunner().invoke(main.commands, ["contract", *run]).stdout for run in ([], [earlier[:8]])
    )
    assert re.match(rf"# Proposed from pipeline run {earlier[:8]}: \d+ train and \d+ test rows\.", earlier_proposal)
    assert earlier_proposal.splitlines()[3:] == [
        "contract:",
        "  id: {type: integer, unique: true}",
        "  age: {type: number, min: 12, max: 82.9}",
        "  colour: {type: text, categories: ['a, b', 'no', red]}",
        "  income: {type: number, nullable: true, min: 0, max: 659}",
        "  order: {type: text}",
        "  label: {type: integer, min: 0, max: 1}",
    ]
    assert "  age: {type: number, min: 112, max: 182.9}" in latest_proposal


def test_a_proposal_needs_an_earlier_run(store: Store) -> None:
    result = CliRunner().invoke(main.commands, ["contract"])
    assert isinstance(result.exception, ConfigError)
    assert "has no experiment local_pipeline_experiment. Run the pipeline once" in str(result.exception)


def test_prepare_data_runs_again_after_the_contract_changed(earlier: Store, drive: Callable[..., Result]) -> None:
    result = drive("--dry-run", "--set=contract.f0={type: number, max: 9}")
    assert "runs: setting contract.f0 none -> {type: number, max: 9}" in result.out
    assert "contract" not in drive("--dry-run").out


def test_the_contract_is_not_in_the_fingerprint_of_a_later_step(finished: Store) -> None:
    config = loading.load("local", ["contract.f0={type: number, max: 9}"])
    producers = {"train_uri": finished.child("prepare_data")}
    parts = fingerprint.fingerprint_parts(Memory(), finished.opened, config, config.steps["train"], producers)
    assert not [part for part in parts if "contract.f0" in part]


def test_pandera_s_settings_cannot_turn_the_contract_off(tmp_path: Path) -> None:
    pl.DataFrame({"x": [1.0]}).write_delta(str(tmp_path / "own"))
    column = {"x": Column(ColumnType.number, min=2)}
    with config_context(validation_enabled=False, validation_depth=ValidationDepth.SCHEMA_ONLY):
        assert contract.find_violations(column, {"own": tables.Table(str(tmp_path / "own"), 0)})


def test_nan_counts_as_a_missing_value(tmp_path: Path) -> None:
    pl.DataFrame({"x": [1.0, float("nan"), None]}).write_delta(str(tmp_path / "own"))
    column = Column(ColumnType.integer, max=2, unique=True)
    (violation,) = contract.find_violations({"x": column}, {"own": tables.Table(str(tmp_path / "own"), 0)})
    cells = [example.row["x"] for example in violation.examples]
    assert (violation.rule, violation.count, cells[1]) == ("nullable", 2, None)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("{type: text, min: 1}", "contract.x: min and max are for numbers, but the column has type text"),
        ("{type: number, categories: [a]}", "contract.x: categories are for text, but the column has type number"),
        (
            "{type: number, min: 2, max: 1}",
            "contract.x: min (2.0) and max (1.0) must be finite, and min must not be greater than max.",
        ),
        ("{type: number, min: .nan}", "contract.x: min (nan) and max (None) must be finite"),
        ("{type: numeric}", "contract.x.type"),
        ("{type: number, minimum: 1}", "contract.x.minimum"),
        ("{nullable: true}", "contract.x.type"),
    ],
)
def test_an_invalid_contract_is_refused(drive: Callable[..., Result], column: str, message: str) -> None:
    result = drive("--dry-run", f"--set=contract.x={column}")
    assert result.code == 2
    assert message in result.err
