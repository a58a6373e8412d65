"""Columns of the source may have any name, also those that the code uses for columns of its own."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import CHECKS, Result, Store

from ml_pipelines.data.columns import standard_name

Drive = Callable[..., Result]
# Names that the steps, the library, Spark, Polars, scikit-learn or MLflow give to columns of their own.
NAMES = (
    *("hash", "split", "row", "rows", "score", "target", "weight", "prediction", "predicted", "index", "len", "value"),
    *("key", "column", "columns", "statistics", "probability", "y", "bucket", "class", "_is_test", "__index_level_0__"),
    *(
        "label",
        "LABELS",
        "Count",
        "position",
        "cell",
        "present",
        "numbers",
        "kind",
        "literal",
        "again",
        "known",
        "share",
    ),
    *(
        "feature",
        "importance",
        "std",
        "encode",
        "model",
        "category",
        "number",
        "test",
        "train",
        "data",
        "items",
        "keys",
    ),
    *("_metadata", "_corrupt_record", "_change_type", "_c0", "select", "null", "True", "a.b", "p q", "x`y", "q'z"),
)


def table(names: tuple[str, ...], label: str, key: str = "id", rows: int = 400) -> pl.DataFrame:
    """Return rows with these features, by turns numbers and categories, a key, and a label that depends on them."""
    chance = [(i * 37 % 101) / 101 for i in range(rows)]
    cells = {
        name: [f"{name}{int(10 * c) * (place + 1) % 7}" for c in chance]
        if place % 2
        else [c + (i * (place + 3) % 17) / 17 for i, c in enumerate(chance)]
        for place, name in enumerate(names)
    }
    labels = ["yes" if c + i % 23 / 46 > 0.75 else "no" for i, c in enumerate(chance)]
    return pl.DataFrame({key: [f"k{i}" for i in range(rows)], **cells, label: labels})


def run(drive: Drive, path: Path, *settings: str) -> Result:
    source = f"data.source.kind=file,data.source.path={path}"
    return drive(*(f"--set={setting}" for setting in (source, *settings)))


@pytest.mark.slow
def test_features_may_have_the_names_that_the_code_uses(store: Store, drive: Drive, tmp_path: Path) -> None:
    table(NAMES, "outcome").write_csv(tmp_path / "rows.csv")
    stability, latency = "{seeds: 2, rows: 100, threshold: 9}", "{rows: 1, repeats: 1, threshold: 1e9}"
    result = run(
        drive,
        tmp_path / "rows.csv",
        "data.label=outcome",
        "steps.model_qa.params.slices=[Count,index,value,key,p q]",
        f"{CHECKS}.stability={stability},{CHECKS}.latency={latency}",
        *(f"contract.{standard_name(name)}.type={('number', 'text')[place % 2]}" for place, name in enumerate(NAMES)),
    )
    assert result.code == 0, result.text
    expected = sorted(map(standard_name, NAMES))
    content = json.loads(store.artifact(store.child("feature_importance"), "feature_importance.json").read_text())
    assert sorted(row[0] for row in content["data"]) == expected
    drift = json.loads(store.artifact(store.child("model_qa"), "drift.json").read_text())["train_test"]
    assert sorted(row["column"] for row in drift) == expected
    tags = store.child("prepare_data").data.tags
    written = pl.concat([pl.read_delta(tags[f"output.{side}_uri"]) for side in ("train", "test")])
    for name, values in table(NAMES, "outcome").drop("id", "outcome").to_dict(as_series=False).items():
        assert sorted(written[standard_name(name)]) == sorted(values), name


@pytest.mark.parametrize(
    ("key", "label"), [("_is_test", "count"), pytest.param("label", "_IS_TEST", marks=pytest.mark.slow)]
)
def test_key_and_label_may_have_the_names_that_the_code_uses(
    store: Store, drive: Drive, tmp_path: Path, key: str, label: str
) -> None:
    table(("x", "score"), label, key).write_parquet(tmp_path / "rows.parquet")
    result = run(drive, tmp_path / "rows.parquet", f"data.key={key},data.label={label}")
    assert result.code == 0, result.text
    predictions = pl.read_parquet(store.artifact(store.child("evaluate"), "predictions.parquet"))
    assert predictions.columns == ["key", "label", "score", "predicted"]
    assert set(predictions["label"]) == {0, 1}
    train, test = (store.child("prepare_data").data.metrics[f"{side}_rows"] for side in ("train", "test"))
    assert (train + test, test) == (400, predictions.height)


@pytest.mark.slow
def test_advice_names_columns_as_the_file_does_and_can_be_pasted(store: Store, drive: Drive, tmp_path: Path) -> None:
    names = ["", "petal.length", "loan id", "no", "a,b]", "Unnamed: 7"]
    header = ",".join(f'"{name}"' for name in [*names, "label"])
    lines = [f"{i},{i % 7 or 'tall'},{i % 5 or 'x'},{i % 3 or 'y'},c{i},d{i},{'ny'[i * 7 % 5 % 2]}" for i in range(400)]
    (tmp_path / "rows.csv").write_text("\n".join([header, *lines]) + "\n")
    settings = ["data.key=null"]

    def prepare() -> Result:
        source = f"data.source.kind=file,data.source.path={tmp_path / 'rows.csv'}"
        return drive("--only=prepare_data", *(f"--set={setting}" for setting in (source, *settings)))

    while (result := prepare()).code == 3:
        [advice] = re.findall(r"or set (data\.columns\.\S.*=category)\.", result.out)
        assert advice not in settings
        settings.append(advice)
    assert result.code == 0, result.text
    assert len(settings) == 4
    warnings = json.loads(store.artifact(store.child("prepare_data"), "data_warnings.json").read_text())["data"]
    drops = [re.findall(r"set (data\.drop=.*)\.", message)[0] for *_, message in warnings if "data.drop" in message]
    assert drops == ["data.drop=[_c0]", "data.drop=[_c0]", 'data.drop=["a,b]"]', 'data.drop=["Unnamed: 7"]']
    for drop in drops:
        settings = ["data.key=null", drop]
        result = prepare()
        assert "has no column" not in result.text and "Traceback" not in result.text
