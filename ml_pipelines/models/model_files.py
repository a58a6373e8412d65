"""Logs models as skops files and loads them. Loading allows only the types that this project trusts."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import BadData, ConfigError, StepFailed, message_of
from ml_pipelines.tracking.lineage import LoggedModel

if TYPE_CHECKING:
    import polars as pl

# The types of models that need no setting:
# - the trees of the default model, NumPy's dtypes, which contain no code, and NumPy's function that makes an array
# - the check of the input that the default model makes for native categories: a partial of a function in this list
# - XGBoost, LightGBM and CatBoost. They parse a model in C++, and forged bytes can crash the parser. So whoever loads a
#   model compares the file's digest first.
TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    *("numpy.dtype", "numpy.asarray"),
    *("functools.partial", "sklearn.utils.validation.check_array"),
    "xgboost.core.Booster",
    *(f"xgboost.sklearn.XGB{name}" for name in ("Classifier", "RFClassifier", "Regressor", "RFRegressor")),
    "lightgbm.basic.Booster",
    *(f"lightgbm.sklearn.LGBM{name}" for name in ("Classifier", "Regressor")),
    "collections.OrderedDict",
    *(f"catboost.core.CatBoost{name}" for name in ("Classifier", "Regressor")),
)
LIBRARIES = ("xgboost", "lightgbm", "catboost")  # estimators beyond scikit-learn
MODEL_FILE, MLFLOW_FILE = "model.skops", "MLmodel"


def dump_model(model: Any, trusted: Sequence[str]) -> bytes:
    """Return the bytes of a skops file with a fitted estimator.

    Raises:
        ConfigError: the model contains a type that is neither in `TRUSTED` nor in `trusted`.
    """
    import skops.io

    content: bytes = skops.io.dumps(model)
    if unknown := sorted(set(skops.io.get_untrusted_types(data=content)) - {*TRUSTED, *trusted}):
        raise ConfigError(
            f"model.trusted_types: {type(model[-1]).__name__} needs the types {unknown}. Look them up. "
            f"If you trust them, allow them: --set 'model.trusted_types=[{','.join([*trusted, *unknown])}]'."
        )
    return content


def log_model(model: Any, example: pl.DataFrame, trusted: Sequence[str]) -> LoggedModel:
    """Log a fitted estimator to the active MLflow run, with a signature from the example's column types.

    Args:
        model: a fitted scikit-learn pipeline that accepts a frame with the example's columns.
        example: a few rows of features.
        trusted: skops types that are allowed in addition to `TRUSTED`.

    Raises:
        ConfigError: the model contains a type that isn't trusted.
    """
    import mlflow.sklearn

    dump_model(model, trusted)  # raises if a type isn't trusted
    info = mlflow.sklearn.log_model(
        model,
        name="model",
        serialization_format="skops",
        skops_trusted_types=[*TRUSTED, *trusted],
        signature=model_signature(example),
        input_example=example.to_pandas(),
        pip_requirements=requirements(model),
    )
    return LoggedModel(info.model_uri, hashlib.sha256(_content(info.model_uri)).hexdigest())


def requirements(model: Any) -> list[str]:
    """Return the packages that a fitted pipeline needs to predict, with their versions, for pip."""
    names = ["mlflow", "scikit-learn", "skops", "polars", "pandas"]
    pinned = [f"{name}=={version(name)}" for name in names]
    library = type(model[-1]).__module__.partition(".")[0]
    if library in LIBRARIES:  # the module knows its version: the distribution can be xgboost or xgboost-cpu
        pinned.append(f"{library}=={importlib.import_module(library).__version__}")
    return pinned


def load_model(logged: LoggedModel, trusted: Sequence[str]) -> Any:
    """Return the estimator of a logged model.

    mlflow.sklearn.load_model would trust the list of types in the model's own files. This function trusts only
    `TRUSTED` and `trusted`.

    Raises:
        StepFailed: the model's file is missing.
        BadData: the file isn't the file that the train run logged, or contains types that aren't trusted.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    content = check_model_file(logged)
    try:
        return skops.io.loads(content, trusted=[*TRUSTED, *trusted])
    except UntrustedTypesFoundException as error:
        raise BadData(
            f"Model {logged.uri} contains types that model.trusted_types doesn't allow: {error} "
            "If you trust them, add them."
        ) from error


def check_model_file(logged: LoggedModel) -> bytes:
    """Return the content of a model's file, after a check that it is the file that the train run logged.

    Raises:
        StepFailed: the file, or MLflow's own file about the model, is missing.
        BadData: the file's SHA-256 differs.
    """
    content = _content(logged.uri)
    if hashlib.sha256(content).hexdigest() != logged.digest:
        raise BadData(f"Model {logged.uri} is not the file that its run logged: its SHA-256 differs. Train it again.")
    return content


def model_signature(example: pl.DataFrame) -> Any:
    """Return the MLflow signature: the example's column types as inputs, an integer (0 or 1) as output.

    Text columns are optional in the signature, because they can have missing values. All other columns are required.
    """
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


def has_signature(logged: LoggedModel) -> bool:
    """Return whether the model's signature declares its input columns and its output."""
    from mlflow.models import get_model_info

    signature = get_model_info(logged.uri).signature
    return bool(signature and signature.inputs and signature.outputs)


def is_complete(folder: Path) -> bool:
    """Return whether a folder has the files that are needed to load a model."""
    return all((folder / name).is_file() for name in (MODEL_FILE, MLFLOW_FILE))


def _content(model_uri: str) -> bytes:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        folder = Path(mlflow.artifacts.download_artifacts(model_uri))
        (folder / MLFLOW_FILE).stat()  # raises if the file is missing
        return (folder / MODEL_FILE).read_bytes()
    except (MlflowException, OSError) as error:
        raise StepFailed(f"Model {model_uri} can't be read: {message_of(error)}") from error
