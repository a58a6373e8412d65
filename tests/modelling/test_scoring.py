"""The functions that Spark's workers run: they gather batches, and load a model once."""

import hashlib
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import skops.io
from sklearn.dummy import DummyClassifier

from ml_pipelines.modelling import scoring


def batches(*sizes: int) -> list[pa.RecordBatch]:
    """Return batches with a column x that counts the rows from 0."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    columns = (pa.array(range(start, start + n), pa.float64()) for start, n in zip(starts, sizes, strict=True))
    return [pa.record_batch({"x": column}) for column in columns]


@pytest.fixture
def file(tmp_path: Path) -> tuple[str, str]:
    """Return the path and the digest of a model whose probability of class 1 is 0.25."""
    model = DummyClassifier(strategy="prior").fit([[0]] * 4, [0, 0, 0, 1])
    path = tmp_path / "model.skops"
    skops.io.dump(model, path)
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def model(file: tuple[str, str], threshold: float = 0.5) -> scoring.Model:
    return scoring.Model(*file, [], ["x"], threshold, ["no", "yes"])


def test_batches_are_gathered_and_no_row_is_lost() -> None:
    tables = list(scoring.gathered(batches(3, 0, 4, 5, 2, 1), rows=6))
    assert [table.num_rows for table in tables] == [7, 7, 1]
    assert pa.concat_tables(tables)["x"].to_pylist() == list(range(15))
    assert list(scoring.gathered(batches(0, 0), rows=6)) == []


@pytest.mark.parametrize(("threshold", "prediction"), [(0.25, "yes"), (0.26, "no")])
def test_a_score_at_the_threshold_is_class_1(file: tuple[str, str], threshold: float, prediction: str) -> None:
    [scored] = scoring.predict(batches(2, 1), {"": model(file, threshold)}, ["x"])
    assert scored.to_pydict() == {"x": [0, 1, 2], "score": [0.25] * 3, "prediction": [prediction] * 3}


def test_only_the_chosen_rows_of_the_model_get_reasons(file: tuple[str, str]) -> None:
    def explain(_: object, features: pl.DataFrame, score: np.ndarray) -> pa.ListArray:
        assert score.tolist() == [0.25] * features.height
        return pa.array([[value] for value in features["x"]], pa.list_(pa.float64()))

    scorer = scoring.Model(*file, [], ["x"], 0.25, ["no", "yes"])
    above, below = scorer, scorer._replace(threshold=0.3)
    for each, for_all, wanted in ((above, False, [[0], [1]]), (below, False, [None] * 2), (below, True, [[0], [1]])):
        models = {"": each, "shadow_": above}
        [scored] = scoring.predict(batches(2), models, [], scoring.Reasons(explain, for_all))
        assert scored.schema.names == ["score", "prediction", "reasons", "shadow_score", "shadow_prediction"]
        assert scored["reasons"].to_pylist() == wanted


def test_a_process_loads_a_model_once(file: tuple[str, str]) -> None:
    sys.modules.pop(scoring.LOADED, None)
    with patch("skops.io.loads", wraps=skops.io.loads) as loads:
        for _ in range(3):
            list(scoring.predict(batches(2), {"": model(file)}, []))
    assert loads.call_count == 1


def test_a_file_with_another_digest_is_not_loaded(file: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="was changed: its SHA-256 differs"):
        list(scoring.predict(batches(2), {"": model((file[0], "0" * 64))}, []))


def test_each_kind_of_oddity_is_counted() -> None:
    batch = pa.record_batch(
        {"x": [1.0, None, 9.0, float("nan"), 1e39], "kind": ["car", None, "boat", "ship", "car"], "n": [1, 2, 3, 4, 5]}
    )
    [counted] = scoring.count_oddities([batch, batch.slice(0, 0)], {"kind": ["car"]}, {"x": (0, 5), "n": (2, 4)})
    assert counted.to_pydict() == {
        "position": [0, 1, 2],
        "wrong": [2, 0, 0],
        "missing": [1, 1, 0],
        "unseen": [0, 2, 0],
        "outside": [3, 0, 2],
    }
