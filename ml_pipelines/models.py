"""Models as skops files: logged through MLflow, loaded against this project's own list of trusted types."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_pipelines.errors import BadData, ConfigError, StepFailed

if TYPE_CHECKING:
    import polars as pl

# What the default model needs, and dtypes, which hold no code. Others come from model.trusted_types in conf.
TRUSTED = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "numpy.dtype")
MODEL_FILE = "model.skops"


class Logged(NamedTuple):
    """A model in the store, and the digest that its file must have."""

    uri: str
    digest: str


def dump(model: Any, trusted: Sequence[str]) -> bytes:
    """Return a fitted estimator as the content of a skops file.

    Raises:
        ConfigError: the model holds a type beyond `TRUSTED` and `trusted`.
    """
    import skops.io

    content: bytes = skops.io.dumps(model)
    if unknown := sorted(set(skops.io.get_untrusted_types(data=content)) - {*TRUSTED, *trusted}):
        raise ConfigError(
            f"model.trusted_types: {type(model[-1]).__name__} needs {unknown}. Read what these types are, "
            f"then allow them: --set 'model.trusted_types=[{','.join([*trusted, *unknown])}]'."
        )
    return content


def log(model: Any, example: pl.DataFrame, trusted: Sequence[str]) -> Logged:
    """Log a fitted estimator to the active MLflow run, with a signature from the example's column types.

    Args:
        model: a fitted scikit-learn pipeline that takes a frame with the example's columns.
        example: a few rows of features.
        trusted: skops types to allow beyond `TRUSTED`.

    Raises:
        ConfigError: the model holds a type that isn't trusted.
    """
    import mlflow.sklearn

    dump(model, trusted)
    info = mlflow.sklearn.log_model(
        model,
        name="model",
        serialization_format="skops",
        skops_trusted_types=[*TRUSTED, *trusted],
        signature=signature(example),
        input_example=example.to_pandas(),
        pip_requirements=[
            f"{name}=={version(name)}" for name in ("mlflow", "scikit-learn", "skops", "polars", "pandas")
        ],
    )
    return Logged(info.model_uri, hashlib.sha256(_content(info.model_uri)).hexdigest())


def load(logged: Logged, trusted: Sequence[str]) -> Any:
    """Return the estimator, if its file is the one that its producing run recorded.

    mlflow.sklearn.load_model would trust the list that stands in the model itself; this trusts ours.

    Raises:
        StepFailed: the file is missing.
        BadData: it is another file, or holds types that aren't trusted.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    content = check(logged)
    try:
        return skops.io.loads(content, trusted=[*TRUSTED, *trusted])
    except UntrustedTypesFoundException as error:
        raise BadData(f"Model {logged.uri} holds types that model.trusted_types doesn't allow: {error}") from error


def check(logged: Logged) -> bytes:
    """Return the model's file, if it is the one that its run logged.

    Raises:
        StepFailed: it is missing.
        BadData: it is another.
    """
    content = _content(logged.uri)
    if hashlib.sha256(content).hexdigest() != logged.digest:
        raise BadData(f"Model {logged.uri} is not the file that its run logged (SHA-256 differs). Train again.")
    return content


def signature(example: pl.DataFrame) -> Any:
    """Return the MLflow signature of `example` -> 0 or 1, from real column types; text may be missing."""
    import polars as pl
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    kinds = {
        pl.Float64: DataType.double,
        pl.Float32: DataType.float,
        pl.String: DataType.string,
        pl.Boolean: DataType.boolean,
    }
    kinds |= {
        pl.Int64: DataType.long,
        pl.Int32: DataType.integer,
        pl.Int16: DataType.integer,
        pl.Int8: DataType.integer,
    }
    inputs = [ColSpec(kinds[type(dtype)], name, required=dtype != pl.String) for name, dtype in example.schema.items()]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec(DataType.integer)]))


def has_signature(logged: Logged) -> bool:
    """Return whether the model says what columns it takes, and what it returns."""
    from mlflow.models import get_model_info

    found = get_model_info(logged.uri).signature
    return bool(found and found.inputs and found.outputs)


def _content(model_uri: str) -> bytes:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(model_uri), MODEL_FILE).read_bytes()
    except (MlflowException, OSError) as error:
        raise StepFailed(f"Model {model_uri} can't be read: {' '.join(str(error).split())[:200]}") from error
