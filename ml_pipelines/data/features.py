"""Makes features from the rows of a source: the same function for training and for scoring.

Training decides how each column is converted, and records it (`Recipe`). Scoring converts a batch as recorded, and
decides nothing by the values in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ml_pipelines.config.schema import ProblemKind
from ml_pipelines.data import cells
from ml_pipelines.data.columns import standard_name
from ml_pipelines.errors import ConfigError
from ml_pipelines.text import listed, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from pyspark.sql import types as t

    MapRows = Callable[[Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]], Any], DataFrame]

RECIPE = "columns.json"  # artifact of the runs of prepare_data and train
# Options that make the staged files fast to write and read. The files are deleted when the step ends, so their size
# doesn't matter. The second option is for Sail. The third does the same in Spark's Parquet writer.
STAGING = {"compression": "uncompressed", "dictionary_enabled": "false", "parquet.enable.dictionary": "false"}


@dataclass(frozen=True)
class Recipe:
    """How training turned the columns of its source into features.

    Args:
        sources: feature -> its name in the source.
        types: feature -> its type: double, float or string.
        label: the label's name in the source.
        classes: the label's values: class 0, class 1; empty if the label is a number.
        key: the key's name in the source, or None.
        dropped: the columns of the source that are neither features nor label nor key.
        null_values: the texts that mean "missing".
        ranges: number column of the training table -> its smallest and its largest value.
        problem: what the model predicts, a kind of `problems/`.
    """

    sources: Mapping[str, str]
    types: Mapping[str, str]
    label: str
    classes: tuple[str, ...]
    key: str | None
    dropped: tuple[str, ...]
    null_values: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    problem: str = ProblemKind.binary.value

    @property
    def key_column(self) -> str | None:
        """The key's name in our tables, or None."""
        return standard_name(self.key) if self.key else None

    def joined(self, other: Recipe) -> Recipe:
        """Return a recipe that makes the features of both, so that one batch serves both models.

        Raises:
            ConfigError: the two make a feature, the label or the key in different ways.
        """
        differing = [
            name
            for name in self.types.keys() & other.types.keys()
            if (self.types[name], self.sources[name]) != (other.types[name], other.sources[name])
        ]
        different = [f"the column {shown(self.sources[name])}" for name in sorted(differing)]
        settings = {"problem": "the kind of problem", "label": "the label", "classes": "its classes", "key": "the key"}
        settings["null_values"] = "data.null_values"
        different += [words for name, words in settings.items() if getattr(self, name) != getattr(other, name)]
        if different:
            raise ConfigError(
                f"score.shadow: its training and that of score.model differ in {listed(different)}, so one batch can't "
                "serve both models. Set score.shadow=null, or score with one model after the other by score.model."
            )
        sources, types = {**self.sources, **other.sources}, {**self.types, **other.types}
        dropped = tuple(name for name in self.dropped if name not in sources.values())
        return replace(self, sources=sources, types=types, dropped=dropped)

    @classmethod
    def from_json(cls, content: Any) -> Recipe | None:
        """Return the recipe in the content of a train run's `columns.json`, or None if it does not hold one."""
        try:
            problem = str(content.get("problem", ProblemKind.binary.value))  # earlier releases knew no other kind
            values = {number: value for value, number in content["label"].items()}
            return cls(
                sources={feature: str(content["sources"][feature]) for feature in content["types"]},
                types={feature: str(kind) for feature, kind in content["types"].items()},
                label=str(content["label_name"]),
                classes=(str(values[0]), str(values[1])) if values or problem == ProblemKind.binary.value else (),
                key=None if content["key"] is None else str(content["key"]),
                dropped=tuple(map(str, content["dropped"])),
                null_values=tuple(map(str, content["null_values"])),
                ranges={column: (float(low), float(high)) for column, (low, high) in content["ranges"].items()},
                problem=problem,
            )
        except (TypeError, KeyError, ValueError, AttributeError):
            return None


def typed_rows(
    map_rows: MapRows,
    columns: Sequence[tuple[str, int, str]],
    spelling: cells.Spelling,
    classes: Mapping[str, int],
    staging: str,
) -> DataFrame:
    """Convert the rows of a source, write them to `staging`, and return them as they are read from it.

    Args:
        map_rows: applies a function of `cells` to the rows, like `DataFrame.mapInArrow`.
        columns: the new name, the position in the source and the new type of each column (see `cells.convert`).
        spelling: how the source spells numbers and missing values.
        classes: value of the label -> class.
        staging: the path or URI of a new Parquet folder.
    """
    schema = schema_of({name: kind for name, _, kind in columns})
    run = partial(cells.convert, columns=columns, spelling=spelling, classes=classes)
    return staged(map_rows(run, schema), schema, staging)


def schema_of(types: Mapping[str, str]) -> t.StructType:
    """Return Spark's schema of these columns: name -> type, as `cells.convert` names types."""
    from pyspark.sql import types as t

    kinds: dict[str, t.DataType] = {
        "double": t.DoubleType(),
        "float": t.FloatType(),
        "bigint": t.LongType(),
        "string": t.StringType(),
        "canonical": t.StringType(),
        "int": t.IntegerType(),
    }
    return t.StructType([t.StructField(name, kinds[kind]) for name, kind in types.items()])


def staged(rows: DataFrame, schema: t.StructType, staging: str) -> DataFrame:
    """Write the rows to `staging`, and return them as they are read from it."""
    rows.write.mode("overwrite").options(**STAGING).parquet(staging)
    return rows.sparkSession.read.schema(schema).parquet(staging)


def send_by_value() -> None:
    """Make Spark send the module `cells` to its workers by value: a remote worker can lack this package."""
    from pyspark import cloudpickle

    cloudpickle.register_pickle_by_value(cells)  # type: ignore[no-untyped-call]
