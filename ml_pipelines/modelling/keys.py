"""Keys of rows on Spark: equal keys get equal text, however a source spells and stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_pipelines.data.cells import EXACT

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def canonical_key(frame: DataFrame, key: str) -> Column:
    """Return the key as text in which equal numbers have one spelling, as `cells.canonical` gives it.

    The split hashes this text. Every query of the split computes the text again, so this function uses only Spark's own
    functions, which need no Python worker.
    """
    from pyspark.sql import functions as F

    text = frame[key].cast("string")
    if dict(frame.dtypes)[key] != "string":
        return text
    plain = F.regexp_replace(text, r"^[+]?(-?)0*([0-9]+)([.]0*)?$", "$1$2")  # 017 and 17.0 become 17
    plain = F.regexp_replace(plain, r"^[+]?(-?)0*([0-9]+[.][0-9]*[1-9])0*$", "$1$2")  # 017.50 becomes 17.5
    number = F.when(text.rlike(r"^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)[eE][+-]?[0-9]{1,2}$"), text).try_cast("double")
    whole = (number == F.floor(number)) & (F.abs(number) < F.lit(float(EXACT)))
    return F.when(whole, number.cast("bigint").cast("string")).otherwise(plain)  # 1.7e1 becomes 17
