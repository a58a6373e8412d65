"""The encoder: the part of a model that turns the columns of a table into numbers for an estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl
    from sklearn.compose import ColumnTransformer

MAX_CATEGORIES = 254  # this many values of a text column, the most frequent ones, get a code of their own
CATEGORIES, MISSING = ("ordinal", "one_hot", "native"), ("keep", "median")  # the words for encodings in conf


def frequent_values(column: pl.Series) -> list[str]:
    """Return the values of a text column in sorted order, or its MAX_CATEGORIES most frequent values if it has more."""
    counts = column.drop_nulls().alias("value").value_counts().sort("count", "value", descending=[True, False])
    return sorted(counts["value"].head(MAX_CATEGORIES).to_list())


def make_encoder(
    features: pl.DataFrame, categories: str, missing: str, scale: bool, takes_nan: bool, whole_codes: bool = False
) -> ColumnTransformer:
    """Return the unfitted encoder: it turns text columns into numbers, and treats numbers as the settings say.

    Text columns come first. Missing categories (None, NaN, pandas' NA) and those that are rare or absent in `features`
    share one code. This code is NaN if the estimator takes NaN, else -1. With `one_hot`, this code gets a
    column only if a row of `features` has the code.

    Args:
        features: the training rows.
        categories: a word of CATEGORIES.
        missing: what happens to missing numbers, a word of MISSING.
        scale: whether numbers get mean 0 and standard deviation 1.
        takes_nan: whether the estimator takes NaN.
        whole_codes: whether codes must be whole numbers. Then the encoder returns a pandas frame, not an array.
    """
    import numpy as np
    import polars as pl
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

    text = [name for name, dtype in features.schema.items() if dtype == pl.String]
    numbers = [name for name in features.columns if name not in text]
    one_hot = [OneHotEncoder(handle_unknown="ignore", sparse_output=False)] if categories == "one_hot" else []
    unknown = np.nan if takes_nan and not one_hot and not whole_codes else -1
    # If the encoder chose the categories, Polars' None would be one of them, and pandas' NaN would be an unseen one.
    known = [frequent_values(features[name]) for name in text]
    kind = np.int64 if whole_codes else np.float64
    codes = OrdinalEncoder(categories=known, dtype=kind, handle_unknown="use_encoded_value", unknown_value=unknown)
    # pandas reads a column in which every cell is empty as numbers; the encoder takes only objects.
    names = "one-to-one" if whole_codes else None  # a frame needs names
    as_objects = FunctionTransformer(np.asarray, kw_args={"dtype": "O"}, feature_names_out=names)
    prepare = [SimpleImputer(strategy="median")] if missing == "median" else []
    prepare += [StandardScaler()] if scale else []
    parts = [("category", make_pipeline(as_objects, codes, *one_hot), text)] if text else []
    parts += [("number", make_pipeline(*prepare) if prepare else "passthrough", numbers)] if numbers else []
    encoder = ColumnTransformer(parts)
    return encoder.set_output(transform="pandas") if whole_codes else encoder
