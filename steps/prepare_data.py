"""Read the source with Spark, add features, and write the training table and the test table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_pipelines.authoring.context import Outputs, StepContext
from ml_pipelines.errors import BadData
from ml_pipelines.modelling.keys import canonical_key
from ml_pipelines.modelling.split import BUCKETS, Split, digest_of
from ml_pipelines.text import shown

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

IS_TEST = "_is_test"  # the column that says on which side a row is
MIN_PER_CLASS = 2  # rows of each class in each table; with fewer rows, the metrics mean nothing


@dataclass(frozen=True)
class Params:
    """No params yet. Declare the params of your features here, and set their values in conf."""


def add_features(frame: DataFrame) -> DataFrame:
    """Return the rows, with more columns for the features that you compute. This function is yours to write.

    Columns of numbers and strings become features. Do not draw random numbers: docs/engines.md shows the alternative.
    """
    return frame


def assign_test(frame: DataFrame, key: str | None, seed: int, fraction: float, label: str | None = None) -> DataFrame:
    """Return the rows with a boolean column `_is_test`. A column of the source never has this name in our tables.

    A hash of the key and the seed puts a row into the training or the test table, so every engine makes the same split.
    A row stays in its table if other rows are added or removed. Rows with the same key stay together, even if the key
    is written in several ways (17, 17.0, 017). Without a key, all columns but the label are hashed.

    Raises:
        BadData: `add_features` made a column `_is_test`.
    """
    from pyspark.sql import functions as F

    if taken := [name for name in frame.columns if name.lower() == IS_TEST]:
        raise BadData(
            f"add_features returns a column {taken[0]}, but this name is reserved for the split. Rename the column."
        )
    hashed = [canonical_key(frame, key)] if key else [frame[name] for name in sorted(frame.columns) if name != label]
    # Sail's hash fails if all arguments are constant, as in a file with one key. So add a null that Sail can't know in
    # advance. A null does not change the hash.
    null = F.when(F.monotonically_increasing_id() < 0, 0)
    bucket = F.pmod(F.xxhash64(*hashed, F.lit(seed), null), F.lit(BUCKETS))
    return frame.withColumn(IS_TEST, bucket < F.lit(round(fraction * BUCKETS)))


def check_split(
    counts: Mapping[tuple[bool, int | None], int], rows_of: Callable[[int], str], classes: Sequence[int | None] = (0, 1)
) -> None:
    """Raise BadData unless both tables get enough rows of each class.

    Args:
        counts: (is_test, class) -> number of rows. The class is None if the label is a number.
        rows_of: returns the words for a class in the message: `left = yes`.
        classes: the classes of the label; (None,) if the label is a number.
    """
    for is_test, side in ((False, "training"), (True, "test")):
        for label in classes:
            if (rows := counts.get((is_test, label), 0)) < MIN_PER_CLASS:
                total = sum(n for (_, of_class), n in counts.items() if of_class == label)
                of_class = "" if label is None else f" with {rows_of(label)}"
                raise BadData(
                    f"The {side} side has {rows} rows{of_class} (of {total} in all); at least "
                    f"{MIN_PER_CLASS} are needed. Bring more rows, or change data.test_fraction or data.split_seed."
                )


def split_source(step: StepContext[Params]) -> DataFrame:
    """Return the rows of the source with their features and the column `_is_test`. Log the split as split.json.

    If you split in another way, log `{"split_kind": "own"}` and what decides your split, as `split_seed` for example.
    Then the gate compares two models only if all these values are equal.

    Raises:
        BadData: the rows have no key, and `add_features` loses the column `_is_test`.
    """
    seed, fraction = step.data.split_seed, step.data.test_fraction
    if step.key_column:
        step.log_json(Split(step.key_column, seed, fraction).tags(), "split.json")
        return assign_test(add_features(step.source()), step.key_column, seed, fraction)
    # Hash what the source has, so that another feature in `add_features` moves no row to the other side.
    source = step.source()
    hashed = [(name, kind) for name, kind in source.dtypes if name != step.label]
    step.log_json(Split("", seed, fraction, digest_of(hashed)).tags(), "split.json")
    frame = add_features(assign_test(source, None, seed, fraction, step.label))
    if IS_TEST not in frame.columns:
        raise BadData(
            f"add_features loses the column {IS_TEST}, which says on which side a row is. Keep this column, or set "
            "data.key to a column that identifies a row."
        )
    return frame


def run(step: StepContext[Params]) -> Outputs:
    """Write the training table and the test table; return their URIs."""
    frame = split_source(step)
    origin = step.origin()
    by = [IS_TEST, step.label] if origin.classes else [IS_TEST]
    rows = frame.groupBy(*by).count().collect()  # the count comes last; a label can be named `count` too
    counts = {(row[0], row[1] if origin.classes else None): row[-1] for row in rows}
    try:
        check_split(counts, origin.rows_of, (0, 1) if origin.classes else (None,))
    except BadData as error:
        if step.key_column and frame.select(step.key_column).distinct().limit(2).count() == 1:
            raise BadData(
                f"data.key: all {sum(counts.values()):,} rows have the same value in column {shown(step.data.key)}, so "
                "they are on one side. Choose a column that identifies a row, or set data.key=null."
            ) from error
        raise
    train = step.write("train_uri", frame.where(f"not {IS_TEST}").drop(IS_TEST))
    test = step.write("test_uri", frame.where(IS_TEST).drop(IS_TEST))
    step.log_metrics({"train_rows": train.rows or 0, "test_rows": test.rows or 0})
    step.summary(f"{train.rows:,} train, {test.rows:,} test rows")
    return {"train_uri": train.uri, "test_uri": test.uri, "pipeline_run_id": step.pipeline_run_id}
