"""Tests of ingestion: a source's rows become typed rows with a label of 0 and 1, and bad rows are refused."""

import dataclasses
import datetime as dt
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyspark.sql import SparkSession

from ml_pipelines.config.schema import Data, MissingLabel, Prefix, Source, Treatment
from ml_pipelines.data.columns import standard_names
from ml_pipelines.data.ingest import Ingested, ingest
from ml_pipelines.data.sources import Raw
from ml_pipelines.errors import BadData

DATA = Data(
    source=Source(),
    label="label",
    delta_prefix=Prefix("local", "databricks"),
    volume_name="volume",
    test_fraction=0.2,
    null_values=["NA", "nan"],
)
NUMBER, CATEGORY = Treatment.number, Treatment.category
INFINITY, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this test's temporary folders a place that pytest clears."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def ingest_frame(spark: SparkSession, frame: pl.DataFrame, *, text: bool = False, **data: Any) -> Ingested:
    """Ingest a frame; with `text`, as a CSV whose cells are all text."""
    raw = Raw(spark.createDataFrame(frame.to_arrow()), text)
    source = dataclasses.replace(DATA.source, **{k: data.pop(k) for k in ("decimal", "thousands") if k in data})
    return ingest(raw, dataclasses.replace(DATA, source=source, **data), tempfile.mkdtemp())


def column(result: Ingested, name: str) -> list[Any]:
    return [row[name] for row in result.frame.collect()]


def dtype(result: Ingested, name: str) -> str:
    return dict(result.frame.dtypes)[name]


def labelled(values: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"x": [float(i) for i in range(len(values))], "label": pl.Series(values, strict=False)})


def featured(values: Any, **kinds: Any) -> pl.DataFrame:
    """Return a frame with a feature `f` and a label, half of the rows in each class."""
    feature = pl.Series("f", values, **kinds)
    return pl.DataFrame({"f": feature, "label": [0, 1] * (len(feature) // 2)})


# -- label


@pytest.mark.parametrize(
    ("values", "classes", "mapping"),
    [
        pytest.param([0, 1, 1], [0, 1, 1], {"0": 0, "1": 1}, id="0-and-1"),
        pytest.param([0.0, 1.0, 1.0], [0, 1, 1], {"0": 0, "1": 1}, id="floats"),
        pytest.param([True, False, True], [1, 0, 1], {"false": 0, "true": 1}, id="booleans"),
        pytest.param([-1, 1, 1], [0, 1, 1], {"-1": 0, "1": 1}, id="minus-1-and-1"),
        pytest.param([2, 1, 2], [1, 0, 1], {"1": 0, "2": 1}, id="1-and-2"),
        pytest.param(["no", "yes", " yes "], [0, 1, 1], {"no": 0, "yes": 1}, id="strings"),
        pytest.param(["Yes", "no", "no"], [1, 0, 0], {"no": 0, "Yes": 1}, id="strings-whatever-their-case"),
        pytest.param(["10", "2", "2"], [1, 0, 0], {"2": 0, "10": 1}, id="numbers-as-text-in-their-order"),
        pytest.param(["0", "1.0", "0.0", "1"], [0, 1, 0, 1], {"0": 0, "1": 1}, id="numbers-in-two-spellings"),
        pytest.param(["no", "yes\xa0", "no\u200b", "\tyes"], [0, 1, 0, 1], {"no": 0, "yes": 1}, id="invisible-blanks"),
        pytest.param(["si\u0301", "s\xed", "no"], [0, 0, 1], {"s\xed": 0, "no": 1}, id="composed-and-decomposed"),
        pytest.param([2**53, 2**53 + 1, 2**53], [0, 1, 0], {str(2**53): 0, str(2**53 + 1): 1}, id="long-codes"),
        pytest.param([Decimal("0.5"), Decimal("1"), Decimal("1")], [0, 1, 1], {"0.5": 0, "1": 1}, id="decimals"),
    ],
)
def test_a_label_of_two_values_becomes_0_and_1(
    spark: SparkSession, values: list[Any], classes: list[int], mapping: dict[str, int]
) -> None:
    result = ingest_frame(spark, labelled(values))
    assert column(result, "label") == classes
    assert result.decisions()["label"] == mapping
    assert dtype(result, "label") == "int"


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        (["no", "yes"], "no"),
        ([True, False], "false"),
        ([2, 1], "1"),
        ([1.0, 0.0], "0"),
        (["a", "b"], "a"),
    ],
)
def test_data_positive_sets_the_value_of_class_1(spark: SparkSession, values: list[Any], positive: str) -> None:
    result = ingest_frame(spark, labelled(values), positive=positive)
    assert result.label.mapping[positive] == 1
    assert sorted(column(result, "label")) == [0, 1]


@pytest.mark.parametrize(("values", "positive"), [([1, 2], "1.0"), (["s\xed", "no"], "si\u0301")])
def test_data_positive_may_have_another_spelling(spark: SparkSession, values: list[Any], positive: str) -> None:
    assert column(ingest_frame(spark, labelled(values), positive=positive), "label") == [1, 0]


@pytest.mark.parametrize("cells", [["no", "NA", "", "yes"], [False, None, None, True], [0.0, NAN, NAN, 1.0]])
def test_rows_without_a_label_can_be_dropped(spark: SparkSession, cells: list[Any]) -> None:
    frame = labelled(cells).with_columns(all=pl.Series([1.5, NAN, NAN, 2.5]), text=pl.Series(["a", "b", "c", "d"]))
    result = ingest_frame(spark, frame, missing_label=MissingLabel.drop)
    assert sorted(map(tuple, result.frame.collect())) == [(0.0, 1.5, "a", 0), (3.0, 2.5, "d", 1)]
    assert [(warning.kind, warning.column, warning.message) for warning in result.warnings] == [
        ("unlabelled", "label", "2 of 4 rows have no label and were dropped (data.missing_label=drop).")
    ]


def test_cells_of_dropped_rows_do_not_count(spark: SparkSession) -> None:
    frame = labelled(["no", None, "yes"]).with_columns(f=pl.Series([None, 1.0, None], dtype=pl.Float64))
    with pytest.raises(BadData, match="Column f is empty in all 2 rows"):
        ingest_frame(spark, frame, missing_label=MissingLabel.drop)
    text = labelled(["no", None, "yes", "no"]).with_columns(f=pl.Series(["1", "wrong", "2", "bad"]))
    with pytest.raises(BadData, match=r"1 of 3 values are not numbers \('bad'\)"):
        ingest_frame(spark, text.cast(pl.String), text=True, missing_label=MissingLabel.drop)


def test_without_missing_labels_nothing_is_dropped_or_reported(spark: SparkSession) -> None:
    result = ingest_frame(spark, labelled(["no", "yes"]), missing_label=MissingLabel.drop)
    assert (column(result, "label"), result.warnings) == ([0, 1], [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param([0, None, 1, None], "Label label: 2 of 4 rows have no label", id="null"),
        pytest.param([0.0, NAN, 1.0, 0.0], "Label label: 1 of 4 rows have no label", id="nan"),
        pytest.param(["no", "NA", "", "yes"], "Label label: 2 of 4 rows have no label", id="null-markers"),
        pytest.param([1, 1, 1, 1], "Label label has only one class, 1, but a classifier needs two.", id="one-class"),
        pytest.param(
            [0, 1, 2, 1], "Label label has 3 classes (0, 1, 2), but this pipeline needs two.", id="three-classes"
        ),
        pytest.param([f"t{i}" for i in range(40)], "Label label has more than 20 values", id="free-text"),
        pytest.param([dt.date(2024, 1, 1), dt.date(2024, 1, 2)], "Label label has type date, but", id="date"),
        pytest.param([[1], [2]], "Label label has type array<bigint>, but", id="list"),
    ],
)
def test_a_label_without_exactly_two_classes_is_refused(spark: SparkSession, values: list[Any], message: str) -> None:
    with pytest.raises(BadData) as error:
        ingest_frame(spark, labelled(values))
    assert message in str(error.value)


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
@pytest.mark.parametrize("dtype", [pl.Float64, pl.Float32, pl.Int32], ids=str)
def test_a_label_that_is_a_number_stays_a_number(spark: SparkSession, text: bool, dtype: Any) -> None:
    values = pl.Series([i * 1.5 for i in range(40)]).cast(dtype)
    frame = labelled(values.to_list()).with_columns(label=values)
    result = ingest_frame(spark, frame.cast(pl.String) if text else frame, text=text)
    assert column(result, "label") == values.to_list()
    assert result.decisions()["problem"] == "regression"
    assert result.decisions()["target"] == "label (data.problem: label has more than 20 values)"


def test_the_error_for_a_missing_label_column_lists_the_columns(spark: SparkSession) -> None:
    with pytest.raises(
        BadData, match=r"data\.label: the source has no column 'target'\. Set data\.label to one of: x, label"
    ):
        ingest_frame(spark, labelled([0, 1]), label="target")


# -- features


@pytest.mark.parametrize(
    ("values", "kinds", "expected"),
    [
        pytest.param([1, None], {}, [1.0, None], id="int"),
        pytest.param([True, False], {}, [1.0, 0.0], id="boolean"),
        pytest.param([Decimal("1.25"), None], {}, [1.25, None], id="decimal"),
        pytest.param([1.5, None], {}, [1.5, None], id="double"),
        pytest.param([1.5, NAN], {}, [1.5, None], id="nan-is-missing"),
    ],
)
def test_numbers_become_doubles(spark: SparkSession, values: list[Any], kinds: dict[str, Any], expected: Any) -> None:
    result = ingest_frame(spark, featured(values, **kinds))
    assert (column(result, "f"), dtype(result, "f")) == (expected, "double")


def test_a_32_bit_float_keeps_its_type(spark: SparkSession) -> None:
    result = ingest_frame(spark, featured([1.5, NAN], dtype=pl.Float32))
    assert (column(result, "f"), dtype(result, "f")) == ([1.5, None], "float")


def test_text_becomes_a_trimmed_category_and_null_markers_become_missing(spark: SparkSession) -> None:
    result = ingest_frame(spark, featured([" a ", "NA", "", "b c"]))
    assert column(result, "f") == ["a", None, None, "b c"]
    assert result.decisions()["features"] == {"f": "category"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((text, float(text)) for text in ("1", " 2.5 ", "-3", "+4", "1e5", "1E-5", ".5", "5.", "-0", "007")),
        ("NA", None),
        ("nan", None),
        ("", None),
    ],
)
def test_a_numeric_csv_cell_becomes_a_number(spark: SparkSession, text: str, number: float | None) -> None:
    result = ingest_frame(spark, featured(["1", text, "2", "3"]), text=True)
    assert column(result, "f") == [1.0, number, 2.0, 3.0]


@pytest.mark.parametrize("text", ["x", "1d", "0x10", "1_000", "--1", "1e", "٣", "1 2", "e5", "1.2.3"])
def test_the_error_shows_a_csv_cell_that_is_not_a_number(spark: SparkSession, text: str) -> None:
    with pytest.raises(BadData) as error:
        ingest_frame(spark, featured(["1", text, "2", "3"]), text=True)
    assert f"Column f: 1 of 4 values are not numbers ({text!r})." in str(error.value)
    assert "data.columns.f=category" in str(error.value)


def test_the_error_counts_all_bad_cells_and_shows_at_most_three(spark: SparkSession) -> None:
    cells = [str(i) for i in range(7)] + ["a", "b", "c", "d", "e"]
    with pytest.raises(BadData, match=r"Column f: 5 of 12 values are not numbers \('[a-e]', '[a-e]', '[a-e]'\)\."):
        ingest_frame(spark, featured(cells), text=True)


def test_a_csv_column_of_mostly_text_is_a_category(spark: SparkSession) -> None:
    result = ingest_frame(spark, featured(["1", "b", "c", "2"]), text=True)
    assert column(result, "f") == ["1", "b", "c", "2"]


def test_a_configured_null_marker_makes_a_csv_column_numeric(spark: SparkSession) -> None:
    result = ingest_frame(spark, featured(["1", "?", "2", "3"]), text=True, null_values=["?"])
    assert column(result, "f") == [1.0, None, 2.0, 3.0]


SPELLED = {
    "thousands": (
        ["4,273.73", "1,100.00"],
        "Set data.source.thousands to ',', or",
        {"thousands": ","},
        [4273.73, 1100.0],
    ),
    "decimal": (["4273,73", "0,5"], "Set data.source.decimal to ',', or", {"decimal": ","}, [4273.73, 0.5]),
    "both": (
        ["4.273,73", "1.000.000"],
        "Set data.source.decimal to ',' and data.source.thousands to '.', or",
        {"decimal": ",", "thousands": "."},
        [4273.73, 1e6],
    ),
    "blank": (
        ["4\u202f273,5", "1 000"],
        "Set data.source.thousands to a blank and data.source.decimal to ',', or",
        {"decimal": ",", "thousands": " "},
        [4273.5, 1000.0],
    ),
    "apostrophe": (["4'273.5", "1'000"], "to an apostrophe, or", {"thousands": "'"}, [4273.5, 1000.0]),
    "ambiguous": (
        ["4,273", "1,000"],
        "Set data.source.thousands to ',' if the comma separates thousands, else data.source.decimal to ','",
        {"thousands": ","},
        [4273.0, 1000.0],
    ),
}


@pytest.mark.parametrize("text", [True, False], ids=["csv", "parquet"])
@pytest.mark.parametrize("name", SPELLED)
def test_numbers_in_a_local_spelling_are_never_silently_a_category(spark: SparkSession, name: str, text: bool) -> None:
    values, advice, settings, expected = SPELLED[name]
    frame = featured([*values, None, *values, None])
    with pytest.raises(BadData) as error:
        ingest_frame(spark, frame, text=text)
    assert "Column f: 4 of 4 values are numbers in another spelling (" in str(error.value)
    assert advice in str(error.value)
    declared = {} if text else {"columns": {"f": NUMBER}}
    assert column(ingest_frame(spark, frame, text=text, **settings, **declared), "f") == [*expected, None] * 2


@pytest.mark.parametrize(
    "values", [["$4,273.73", "$5"], ["26 %", "3 %"], ["17", "(17)"], ["17-", "18"], ["5 EUR", "6"]]
)
def test_numbers_with_signs_are_never_silently_a_category(spark: SparkSession, values: list[str]) -> None:
    with pytest.raises(BadData, match=r"Remove signs such as \$ and % in the source, or set data.columns.f=category"):
        ingest_frame(spark, featured(values), text=True)
    assert column(ingest_frame(spark, featured(values), text=True, columns={"f": CATEGORY}), "f") == values


def test_a_number_with_an_invisible_blank_is_a_number(spark: SparkSession) -> None:
    assert column(ingest_frame(spark, featured(["4273.73\xa0", "\u200b5"]), text=True), "f") == [4273.73, 5.0]


@pytest.mark.parametrize("word", ["?", "-", ".", "n/a", "\\N", "--", "missing", "\u2013"])
@pytest.mark.parametrize("share", [2, 60])
def test_a_word_for_missing_among_numbers_is_refused(spark: SparkSession, word: str, share: int) -> None:
    frame = featured([word] * share + [str(i) for i in range(100 - share)])
    with pytest.raises(BadData) as error:
        ingest_frame(spark, frame, text=True)
    assert f"Column f: {share} of 100 values look like missing values ({word!r})" in str(error.value)
    assert "Add the text to data.null_values, or set data.columns.f=category." in str(error.value)
    result = ingest_frame(spark, frame, text=True, null_values=[word])
    assert column(result, "f") == [None] * share + [float(i) for i in range(100 - share)]


@pytest.mark.parametrize(
    "values", [["-", "+", "-", "+"], ["a", "?", "b", "c"], ["1,5", "a", "b", "c"], ["A4", "$", "x", "y"]]
)
def test_text_that_is_not_about_numbers_stays_a_category(spark: SparkSession, values: list[str]) -> None:
    assert column(ingest_frame(spark, featured(values), text=True), "f") == values


def test_category_values_that_look_the_same_are_the_same(spark: SparkSession) -> None:
    values = ["a", "a\xa0", "\ufeffa", "caf\xe9", "cafe\u0301", "a\u200b"]
    assert column(ingest_frame(spark, featured(values), text=True), "f") == ["a", "a", "a", "caf\xe9", "caf\xe9", "a"]


def test_whole_numbers_above_2_to_the_53_are_reported(spark: SparkSession) -> None:
    ids = [10**17 + 7 * i for i in range(4)]
    for frame, text in ((featured(ids), False), (featured([str(i) for i in ids]), True)):
        warnings = ingest_frame(spark, frame, text=text).warnings
        assert [(w.kind, w.column) for w in warnings] == [("rounded", "f")]
        assert "4 of 4 values are whole numbers above 2^53, which are rounded" in warnings[0].message
    assert ingest_frame(spark, featured(ids), columns={"f": CATEGORY}).warnings == []
    assert ingest_frame(spark, featured([1e17, 2.0])).warnings == []


def test_numbers_stored_as_text_need_a_declared_type(spark: SparkSession) -> None:
    codes = featured(["007", None, "9", "10"])
    with pytest.raises(BadData, match=r"Column f has numbers stored as text.*data\.columns\.f to number"):
        ingest_frame(spark, codes)
    assert column(ingest_frame(spark, codes, columns={"f": CATEGORY}), "f") == ["007", None, "9", "10"]
    assert column(ingest_frame(spark, codes, columns={"f": NUMBER}), "f") == [7.0, None, 9.0, 10.0]


def test_text_in_a_column_declared_as_a_number_is_refused(spark: SparkSession) -> None:
    with pytest.raises(BadData, match=r"Column f: 3 of 4 values are not numbers"):
        ingest_frame(spark, featured(["a", "b", "c", "1"]), columns={"f": NUMBER})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([1, 2], ["1", "2"], id="ints"),
        pytest.param([94110.0, NAN], ["94110", None], id="whole-floats"),
        pytest.param([1e7, 0.5], ["10000000", "0.5"], id="floats"),
        pytest.param([True, False], ["true", "false"], id="booleans"),
        pytest.param([dt.date(2024, 2, 29), None], ["2024-02-29", None], id="dates"),
        pytest.param([dt.datetime(2024, 2, 29, 12, 30), None], ["2024-02-29 12:30:00+00:00", None], id="times"),
        pytest.param([Decimal("1.50"), None], ["1.50", None], id="decimals"),
    ],
)
def test_a_column_declared_as_a_category_becomes_text(spark: SparkSession, values: list[Any], expected: Any) -> None:
    assert column(ingest_frame(spark, featured(values), columns={"f": CATEGORY}), "f") == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param([1.0, INFINITY], "Column f: 1 of 2 values are infinite", id="inf"),
        pytest.param([-INFINITY, -INFINITY], "Column f: 2 of 2 values are infinite", id="minus-inf"),
        pytest.param(
            [1e300, 1.0], "Column f: 1 of 2 values are beyond the range of a 32-bit float", id="beyond-float32"
        ),
        pytest.param([-3.5e38, None], "Column f: 1 of 1 values are beyond", id="beyond-float32-negative"),
        pytest.param([NAN, NAN], "Column f is empty in all 2 rows. Add it to data.drop", id="all-nan"),
        pytest.param(["", "NA"], "Column f is empty in all 2 rows", id="all-null-markers"),
        pytest.param([None, None], "Column f is empty in all 2 rows", id="all-null"),
        pytest.param([dt.date(2024, 1, 1)] * 2, "Column f has type date, which can't be a feature", id="date"),
        pytest.param([dt.datetime(2024, 1, 1)] * 2, "Column f has type timestamp", id="timestamp"),
        pytest.param([[1], [2]], "Column f has type array<bigint>", id="list"),
        pytest.param([{"a": 1}, {"a": 2}], "Column f has type struct<a:bigint>", id="struct"),
        pytest.param([b"a", b"b"], "Column f has type binary", id="binary"),
    ],
)
def test_a_feature_that_no_model_accepts_is_refused_by_name(
    spark: SparkSession, values: list[Any], message: str
) -> None:
    with pytest.raises(BadData) as error:
        ingest_frame(spark, featured(values))
    assert message in str(error.value)


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e400"])
def test_infinity_in_a_csv_is_refused_as_infinite(spark: SparkSession, cell: str) -> None:
    with pytest.raises(BadData, match=f"Column f: 1 of 4 values are infinite \\('{cell}'\\)"):
        ingest_frame(spark, featured(["1", cell, "2", "3"]), text=True)


def test_the_largest_32_bit_float_is_accepted(spark: SparkSession) -> None:
    assert column(ingest_frame(spark, featured([3.4028234663852886e38, 1.0])), "f")[1] == 1.0


@pytest.mark.parametrize("treatment", [NUMBER, CATEGORY])
def test_a_list_is_refused_as_a_feature_whatever_its_declared_type(spark: SparkSession, treatment: Treatment) -> None:
    with pytest.raises(BadData, match="can't be a feature"):
        ingest_frame(spark, featured([[1], [2]]), columns={"f": treatment})


def test_a_date_declared_as_a_number_is_refused(spark: SparkSession) -> None:
    with pytest.raises(BadData, match=r"has type date.*data\.columns\.f=category"):
        ingest_frame(spark, featured([dt.date(2024, 1, 1)] * 2), columns={"f": NUMBER})


def test_a_dropped_column_may_have_any_type(spark: SparkSession) -> None:
    frame = featured([1.0, 2.0]).with_columns(when=pl.lit(dt.date(2024, 1, 1)), bad=pl.lit(INFINITY))
    assert ingest_frame(spark, frame, drop=["when", "bad"]).frame.columns == ["f", "label"]


@pytest.mark.parametrize("name", ["f1", "f2", "f4"])
def test_every_column_is_checked(spark: SparkSession, name: str) -> None:
    frame = pl.DataFrame({**{f"f{i}": [1.0, 2.0] for i in range(5)}, "label": [0, 1]})
    with pytest.raises(BadData, match=f"Column {name}: 1 of 2 values are infinite"):
        ingest_frame(spark, frame.with_columns(pl.Series(name, [1.0, INFINITY])))


# -- names


def test_column_names_are_standardized_and_the_change_is_recorded(spark: SparkSession) -> None:
    frame = pl.DataFrame({"rate %": [1.0, 2.0], "a.b": [1.0, 2.0], "größe": [1.0, 2.0], "the label": [0, 1]})
    result = ingest_frame(spark, frame, label="the label")
    assert result.frame.columns == ["rate", "a_b", "größe", "the_label"]
    assert result.decisions()["renamed"] == {"rate %": "rate", "a.b": "a_b", "the label": "the_label"}


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("\u0906\u092f\u0941", "\u0906\u092f\u0941"),  # Hindi: a vowel sign is part of the word
        ("cafe\u0301", "caf\xe9"),
        ("\ufeffid", "id"),
        ("How old are you? [years] <18;{65}>=a", "How_old_are_you_years_18_65_a"),
        ("__x__", "x"),
        ("7 days", "7_days"),
        ("%", "column"),
    ],
)
def test_a_standard_name_keeps_what_unicode_allows_in_an_identifier(name: str, standard: str) -> None:
    assert standard_names([name]) == {name: standard}


def test_names_of_one_script_that_differ_in_a_vowel_sign_stay_two_columns(spark: SparkSession) -> None:
    names = ["\u0906\u092f\u0941", "\u0906\u092f"]
    frame = pl.DataFrame({names[0]: [1.0, 2.0], names[1]: [3.0, 4.0], "label": [0, 1]})
    assert ingest_frame(spark, frame).frame.columns == [*names, "label"]


@pytest.mark.parametrize(
    "pair", [("Age", "age"), ("a b", "a-b"), ("x", "x "), ("Größe", "größe"), ("caf\xe9", "cafe\u0301")]
)
def test_column_names_that_would_become_equal_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(BadData) as error:
        standard_names(pair)
    assert f"Columns {pair[0]!r} and {pair[1]!r} would get the same name" in str(error.value)


def test_two_columns_with_the_same_name_are_refused(spark: SparkSession) -> None:
    raw = Raw(spark.createDataFrame([(1.0, 2.0, 0), (1.0, 2.0, 1)], ["x", "x", "label"]))
    with pytest.raises(BadData, match="The source has two columns named x"):
        ingest(raw, DATA, tempfile.mkdtemp())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": ["gone"]}, "data.drop: the source has no column 'gone'. The columns of the source are: f, label"),
        ({"key": "gone"}, "data.key: the source has no column 'gone'. Set data.key to one of: f, label, or to null"),
        ({"columns": {"gone": NUMBER}}, "data.columns: the source has no column 'gone'"),
        ({"drop": ["f"]}, "The source has no features. Its columns (f, label) are"),
    ],
)
def test_the_error_names_an_option_that_does_not_fit_the_columns(
    spark: SparkSession, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadData) as error:
        ingest_frame(spark, featured([1.0, 2.0]), **options)
    assert message in str(error.value)


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_are_refused(spark: SparkSession, rows: int) -> None:
    raw = Raw(spark.createDataFrame([(1.0, 1)][:rows], "f double, label int"))
    with pytest.raises(BadData, match=f"The source has too few rows: {rows}\\."):
        ingest(raw, DATA, tempfile.mkdtemp())


# -- key


@pytest.mark.parametrize(
    ("keys", "kind", "expected"),
    [
        pytest.param([1, 2], "bigint", [1, 2], id="int"),
        pytest.param(pl.Series([1, 2], dtype=pl.Int16), "bigint", [1, 2], id="short"),
        pytest.param(["a ", "b"], "string", ["a", "b"], id="text"),
        pytest.param([1.0, 2.0], "string", ["1", "2"], id="whole-floats"),
        pytest.param([Decimal(10), Decimal(20)], "string", ["10", "20"], id="decimals"),
        pytest.param([dt.date(2024, 1, 1)] * 2, "string", ["2024-01-01"] * 2, id="dates"),
    ],
)
def test_a_key_becomes_an_integer_or_text(spark: SparkSession, keys: Any, kind: str, expected: Any) -> None:
    result = ingest_frame(spark, featured([1.0, 2.0]).with_columns(pl.Series("k", keys)), key="k")
    assert (column(result, "k"), dtype(result, "k")) == (expected, kind)
    assert list(result.treatments) == ["f"]


@pytest.mark.parametrize("keys", [["a", None, "c", None], ["a", "NA", "c", ""], [1.0, NAN, 2.0, None]])
def test_rows_without_a_key_are_counted_and_refused(spark: SparkSession, keys: list[Any]) -> None:
    frame = featured([1.0, 2.0, 3.0, 4.0]).with_columns(pl.Series("k", keys))
    with pytest.raises(BadData, match=r"data\.key: 2 of 4 rows have no k"):
        ingest_frame(spark, frame, key="k")


def test_a_list_is_refused_as_a_key(spark: SparkSession) -> None:
    with pytest.raises(BadData, match=r"data\.key: column k has type array<bigint>, which can't be a key"):
        ingest_frame(spark, featured([1.0, 2.0]).with_columns(k=pl.Series([[1], [2]])), key="k")
