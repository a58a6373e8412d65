"""The columns of a source: their names in our tables, their statistics, and how each becomes a number or a category.

The columns must fit the configuration, and their cells must fit a model. Otherwise the run stops with BadData.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ml_pipelines.config.overrides import column_key
from ml_pipelines.config.schema import Data, Treatment
from ml_pipelines.data.data_warnings import DataWarning
from ml_pipelines.errors import BadData
from ml_pipelines.text import did_you_mean, listed, quoted, shown

INTEGER = ("tinyint", "smallint", "int", "bigint")
NUMERIC = (*INTEGER, "float", "double", "decimal", "boolean")
NEARLY_ALL = 0.95  # share of numbers that makes a column of text suspicious


@dataclass(frozen=True)
class Profile:
    """Statistics of one column of the source. The counts are those of `cells.profile`."""

    source: str  # its name in the source
    name: str  # its name in our tables
    dtype: str  # Spark's simple name of its type
    rows: int
    present: int
    numbers: int
    infinite: int = 0
    beyond: int = 0
    long: int = 0
    marked: int = 0
    missing: int = 0

    @property
    def kind(self) -> str:
        """The type without its arguments: `decimal` for decimal(10,2)."""
        return kind_of(self.dtype)

    @property
    def is_time(self) -> bool:
        """Whether the column has dates or times."""
        return is_time(self.kind)


def kind_of(dtype: str) -> str:
    """Return a type of Spark without its arguments: `decimal` for decimal(10,2)."""
    return dtype.split("(")[0]


def is_time(kind: str) -> bool:
    """Return whether a type of Spark is for dates or times."""
    return kind[:4] in ("date", "time")


def key_type(kind: str) -> str:
    """Return the type that a key of the source's type `kind` has in our tables."""
    return "bigint" if kind in INTEGER else "string"


def standard_name(column: str) -> str:
    """Return the name that a column of the source gets in our tables."""
    return standard_names([column])[column]


def standard_names(columns: Sequence[str]) -> dict[str, str]:
    """Return source column -> its name in our tables: letters of any script, digits and underscores, in NFC.

    Delta tables can't have blanks and `,;{}()=` in names, and some readers accept even fewer characters.

    Raises:
        BadData: two columns would get the same name, or names that differ only in case.
    """
    names = {name: _identifier(name) for name in columns}
    seen: dict[str, str] = {}
    for name in columns:
        if (twin := seen.setdefault(names[name].lower(), name)) is not name:
            raise BadData(
                f"Columns {quoted(twin)} and {quoted(name)} would get the same name, {quoted(names[name])}. "
                "Rename one of them."
            )
    return names


def _identifier(name: str) -> str:
    """Return the name with `_` for each run of characters that Unicode doesn't allow in an identifier (UAX 31)."""
    kept = (c if f"a{c}".isidentifier() else " " for c in unicodedata.normalize("NFC", name))
    return re.sub("[ _]*[ ][ _]*", "_", "".join(kept)).strip("_") or "column"


def check_width(columns: int, max_columns: int) -> None:
    """Raise BadData if a source has more columns than `data.max_columns`."""
    if columns > max_columns:
        raise BadData(
            f"The source has {columns:,} columns, but data.max_columns is {max_columns:,}. Remove columns from the "
            f"source, or set data.max_columns={columns}."
        )


def check_columns(columns: Sequence[str], data: Data) -> None:
    """Raise BadData if a name occurs twice, or if the configuration names a column that the source doesn't have."""
    repeated = sorted({name for name in columns if list(columns).count(name) > 1})
    if repeated:
        raise BadData(f"The source has two columns named {listed(repeated)}. Rename one of them.")
    configured = {"data.label": [data.label], "data.key": [data.key] if data.key else []}
    configured |= {"data.drop": data.drop, "data.columns": list(data.columns)}
    for option, names in configured.items():
        for name in names:
            if name not in columns:
                known = listed(columns)
                near = did_you_mean(name, columns)
                advice = {
                    "data.label": f"Set data.label to one of: {known}.",
                    "data.key": f"Set data.key to one of: {known}, or to null if rows have no key.",
                }.get(option, f"The columns of the source are: {known}.")
                raise BadData(f"{option}: the source has no column {quoted(name)}.{near} {advice}")


def choose_treatment(
    profile: Profile, declared: Treatment | None, text: bool, examples: Callable[[str], Sequence[str]]
) -> Treatment:
    """Return whether a column becomes a number or a category: as `declared`, or by its cells if `declared` is None.

    In a CSV, a column becomes a number if most of its cells are numbers.

    Args:
        profile: the column's statistics.
        declared: the treatment in `data.columns`.
        text: whether the source is a CSV: all its cells are text.
        examples: returns some cells with a problem; the problems are those of `cells.bad_cells`.

    Raises:
        BadData: the type can't be a feature, the column has no value, or its text looks like numbers.
    """
    name = shown(profile.source)
    if profile.present == 0:
        raise BadData(f"Column {name} is empty in all {profile.rows} rows. Add it to data.drop.")
    if profile.kind not in (*NUMERIC, "string") and (declared is not Treatment.category or not profile.is_time):
        raise BadData(
            f"Column {name} has type {profile.dtype}, which can't be a feature. Add it to data.drop"
            + (f", or set {column_key(profile.source)}=category." if profile.is_time else ".")
        )
    if declared:
        return declared
    if profile.kind != "string":
        return Treatment.number
    likely = profile.numbers + profile.marked
    if likely and likely >= NEARLY_ALL * (profile.present - profile.missing):
        _check_spelling(profile, text, examples)
    return Treatment.number if text and profile.numbers > profile.present / 2 else Treatment.category


def _check_spelling(profile: Profile, text: bool, examples: Callable[[str], Sequence[str]]) -> None:
    """Raise BadData if nearly all text is numbers, but some of it is in a local spelling or a word for "missing".

    Numbers stored as text are refused too, except in a CSV.
    """
    name, key, of = shown(profile.source), column_key(profile.source), f"of {profile.present} values"
    if profile.marked:
        spelled = examples("marked")
        raise BadData(
            f"Column {name}: {profile.marked} {of} are numbers in another spelling ({_examples(spelled)}). "
            f"{spelling_advice(spelled)}, or set {key}=category."
        )
    if profile.missing:
        raise BadData(
            f"Column {name}: {profile.missing} {of} look like missing values ({_examples(examples('missing'))}), "
            f"and the others are numbers. Add the text to data.null_values, or set {key}=category."
        )
    if not text:
        raise BadData(
            f"Column {name} has numbers stored as text ({profile.numbers} {of}). "
            f"Set {key} to number (for amounts) or category (for codes)."
        )


def spelling_advice(numbers: Sequence[str]) -> str:
    """Return the beginning of a sentence that says how texts such as `numbers` can be read as numbers."""
    text = "\n".join(numbers)
    if re.search(r"[^0-9.,'\u2019\s+-]|-$", text, re.MULTILINE):
        return "Remove signs such as $ and % in the source"
    if re.search(r",[0-9]{3}(\.|,)", text):
        return "Set data.source.thousands to ','"
    if re.search(r"\.[0-9]{3}(,|\.)", text):
        return "Set data.source.decimal to ',' and data.source.thousands to '.'"
    if group := re.search(r"[0-9](['\u2019]|[^\S\n])[0-9]{3}", text):
        mark = "a blank" if group[1].isspace() else "an apostrophe"
        return f"Set data.source.thousands to {mark}" + (" and data.source.decimal to ','" if "," in text else "")
    if all(re.fullmatch(r"[+-]?[0-9]{1,3},[0-9]{3}", number) for number in numbers):
        return "Set data.source.thousands to ',' if the comma separates thousands, else data.source.decimal to ','"
    return "Set data.source.decimal to ','"


def check_numbers(profile: Profile, examples: Callable[[str], Sequence[str]]) -> None:
    """Raise BadData if a number column has text, infinite values, or values beyond float32."""
    name = shown(profile.source)
    if profile.numbers < profile.present:
        count, problem, cells = profile.present - profile.numbers, "not numbers", "text"
        advice = f"Correct them, add the text to data.null_values, or set {column_key(profile.source)}=category."
    elif profile.infinite:
        count, problem, cells = profile.infinite, "infinite", "infinite"
        advice = "Correct them, or add the column to data.drop."
    elif profile.beyond:
        count, problem, cells = profile.beyond, "beyond the range of a 32-bit float, 3.4e38", "beyond"
        advice = "Rescale the column, or add it to data.drop."
    else:
        return
    raise BadData(
        f"Column {name}: {count} of {profile.present} values are {problem} ({_examples(examples(cells))}). {advice}"
    )


def rounding_warnings(profiles: Sequence[Profile]) -> Iterator[DataWarning]:
    """Yield a warning for each number column with whole numbers that a 64-bit float rounds."""
    for profile in profiles:
        if profile.long:
            yield DataWarning(
                "rounded",
                profile.source,
                f"Column {shown(profile.source)}: {profile.long:,} of {profile.present:,} values are whole numbers "
                "above 2^53, which are rounded. If they are ids, add the column to data.drop. If they are codes, make "
                "it a category.",
            )


def _examples(cells: Sequence[str]) -> str:
    return ", ".join(map(quoted, cells))
