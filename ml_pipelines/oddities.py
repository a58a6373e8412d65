"""What is odd in the tables, though no rule forbids it: said in the log, kept as an artifact, and nothing stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

ALIKE = 100  # rows from which it is odd that a column never repeats itself
RARE = 0.01  # a class with a smaller share of the rows


@dataclass(frozen=True)
class Oddity:
    """One of them: its kind, its column where it is one column's, and what to say."""

    kind: str
    column: str | None
    said: str


def find(train: pl.LazyFrame, test: pl.LazyFrame, features: Sequence[str], label: str) -> list[Oddity]:
    """Return what is odd in the tables, in a few passes over them that hold little in memory."""
    return [
        *_of_classes(train, label, len(features)),
        *_of_columns(train.select(features)),
        *_in_both(train.select(features), test.select(features)),
    ]


def report(found: Sequence[Oddity]) -> pl.DataFrame:
    """Return them as a table."""
    import polars as pl

    return pl.DataFrame([asdict(oddity) for oddity in found], schema={"kind": str, "column": str, "said": str})


def _of_classes(train: pl.LazyFrame, label: str, features: int) -> Iterator[Oddity]:
    import polars as pl

    rows, ones = train.select(pl.len(), pl.col(label).sum()).collect().row(0)
    rare = min(ones, rows - ones)
    if features > rows:
        yield Oddity("wide", None, f"There are more features ({features:,}) than training rows ({rows:,}).")
    if rare < RARE * rows:
        name = 1 if ones == rare else 0
        yield Oddity("imbalance", label, f"Only {rare:,} of {rows:,} training rows are of class {name}.")


def _of_columns(train: pl.LazyFrame) -> Iterator[Oddity]:
    """Yield constant columns, and those of text or whole numbers whose values are all different."""
    import polars as pl
    from polars import selectors as cs

    sums = {"min": pl.all().min(), "max": pl.all().max(), "rows": pl.all().count()}
    floats = cs.float()
    sums["whole"] = ((floats == floats.floor()) & (floats.abs() < 2**53)).all()  # beyond, every float is whole
    found = train.select(each.name.suffix(f" {name}") for name, each in sums.items()).collect(engine="streaming")
    seen = found.row(0, named=True)
    candidates = []
    for name in train.collect_schema():
        if seen[f"{name} min"] == seen[f"{name} max"]:
            yield Oddity(
                "constant", name, f"Column {name} has the value {seen[f'{name} min']!r:.40} or none in each row."
            )
        elif seen[f"{name} rows"] >= ALIKE and seen.get(f"{name} whole", True):
            candidates.append(name)
    counted = train.select(pl.col(candidates).drop_nulls().n_unique()).collect(engine="streaming")
    for name in candidates:
        if counted[name].item() == seen[f"{name} rows"]:
            yield Oddity("id-like", name, f"Column {name} has another value in each row: is it an id? See data.drop.")


def _in_both(train: pl.LazyFrame, test: pl.LazyFrame) -> Iterator[Oddity]:
    """Yield whether rows of the test table have the features of a training row: the model has seen these."""
    import polars as pl

    trained, tested = (frame.select(pl.struct(pl.all()).hash().alias("row")) for frame in (train, test))
    count = tested.join(trained.unique(), on="row", how="semi").select(pl.len()).collect(engine="streaming").item()
    if count:
        yield Oddity("in-both", None, f"Test rows that have the features of a training row: {count:,}.")
