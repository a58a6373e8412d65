"""Logs models as skops files and loads them. Loading allows only the types that this project trusts."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import BadData, ConfigError, StepFailed, message_of
from ml_pipelines.tracking.lineage import LoggedModel

if TYPE_CHECKING:
    import polars as pl
    from mlflow.models import Model

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
FACTS_FILE = "model.json"  # what scoring must know about the model; code_model.py reads it too


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


def log_model(model: Any, example: pl.DataFrame, trusted: Sequence[str], facts: Mapping[str, Any]) -> LoggedModel:
    """Log a fitted estimator to the active MLflow run as a model from code (`code_model.py`).

    Args:
        model: a fitted scikit-learn pipeline that accepts a frame with the example's columns.
        example: a few rows of features.
        trusted: skops types that are allowed in addition to `TRUSTED`.
        facts: what scoring must know besides the model's columns: `threshold`, and `label` (value -> class), which is
            empty if the model predicts a number.

    Raises:
        ConfigError: the model contains a type that isn't trusted.
    """
    from mlflow.models import Model

    content = dump_model(model, trusted)
    words = {"String": "string", "Float32": "float"}
    kinds = {name: words.get(str(kind), "double") for name, kind in example.schema.items()}
    allowed = [*TRUSTED, *trusted]
    text = json.dumps({**facts, "columns": kinds, "trusted_types": allowed}, indent=1).encode()
    files = {MODEL_FILE: content, FACTS_FILE: text}
    # `mlflow.pyfunc.log_model` would load the model again to predict the example, which takes most of its time.
    info = Model.log(
        None,
        _CodeModel,
        name="model",
        flavor_name="pyfunc",
        validate_serving_input=False,
        files=files,
        signature=model_signature(list(kinds), facts["threshold"] if facts["label"] else None),
        input_example=example.to_pandas(),
        pip_requirements=requirements(model),
    )
    return LoggedModel(info.model_uri, _sha256(content), _sha256(text))


class _CodeModel:
    """An MLflow flavor: pyfunc's model from code, whose files hold no path of this machine."""

    @staticmethod
    def save_model(
        path: str, mlflow_model: Model, files: Mapping[str, bytes], validate_serving_input: bool, **options: Any
    ) -> None:
        """Write the model's folder. `files` are name -> content; `options` are those of `mlflow.pyfunc.save_model`."""
        import mlflow.pyfunc

        from ml_pipelines.data import cells
        from ml_pipelines.models import code_model

        folder, code = Path(path), Path(code_model.__file__)
        mlflow.pyfunc.save_model(path, mlflow_model=mlflow_model, python_model=str(code), **options)
        shutil.copy(cells.__file__, folder)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        # MLflow writes absolute paths; to load the model, it needs only the name of the code's file.
        mlflow_model.flavors["python_function"]["model_code_path"] = code.name
        mlflow_model.artifact_path = "model"
        mlflow_model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*"))
        mlflow_model.save(str(folder / MLFLOW_FILE))


def requirements(model: Any) -> list[str]:
    """Return the packages that a fitted pipeline needs to predict, with their versions, for pip."""
    names = ["mlflow", "scikit-learn", "skops", "polars", "pandas", "pyarrow"]
    pinned = [f"{name}=={version(name)}" for name in names]
    library = type(model[-1]).__module__.partition(".")[0]
    if library in LIBRARIES:  # the module knows its version: the distribution can be xgboost or xgboost-cpu
        pinned.append(f"{library}=={importlib.import_module(library).__version__}")
    return pinned


def load_model(logged: LoggedModel, trusted: Sequence[str]) -> Any:
    """Return the estimator of a logged model.

    MLflow's loaders trust the list of types in the model's own files. This function trusts only
    `TRUSTED` and `trusted`.

    Raises:
        StepFailed: the model's file is missing.
        BadData: the file isn't the file that the train run logged, or contains types that aren't trusted.
    """
    return parse_model(read_model_file(logged), logged, trusted)


def parse_model(content: bytes, logged: LoggedModel, trusted: Sequence[str]) -> Any:
    """Return the estimator in the content of a logged model's skops file, which `read_model_file` has checked.

    Raises:
        BadData: the file contains types that aren't trusted.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.loads(content, trusted=[*TRUSTED, *trusted])
    except UntrustedTypesFoundException as error:
        raise BadData(
            f"Model {logged.uri} contains types that model.trusted_types doesn't allow: {error} "
            "If you trust them, add them."
        ) from error


def load_facts(logged: LoggedModel) -> dict[str, Any]:
    """Return what scoring must know about a model: `threshold`, `columns`, and how the columns were made.

    Raises:
        StepFailed: the model's files are missing.
        BadData: the file isn't the one that the train run logged, or an earlier release logged the model.
    """
    if logged.facts_digest is None:
        raise BadData(
            f"Model {logged.uri} has no {FACTS_FILE}, because an earlier release trained it. Train again: the model "
            "then holds its threshold and the record of its columns."
        )
    facts: dict[str, Any] = json.loads(_checked(logged, FACTS_FILE, logged.facts_digest))
    return facts


def check_files(logged: LoggedModel) -> None:
    """Check that a model's files are those that the train run logged.

    Raises:
        StepFailed: a file, or MLflow's file `MLmodel`, is missing.
        BadData: the SHA-256 of a file differs.
    """
    read_model_file(logged)
    if logged.facts_digest:
        load_facts(logged)


def read_model_file(logged: LoggedModel) -> bytes:
    """Return the content of a model's skops file, after a check that it is the file that the train run logged.

    Raises:
        StepFailed: the file, or MLflow's file `MLmodel`, is missing.
        BadData: the file's SHA-256 differs.
    """
    return _checked(logged, MODEL_FILE, logged.digest)


def model_signature(columns: Sequence[str], threshold: float | None) -> Any:
    """Return the MLflow signature: columns of any type, because MLflow would refuse whole numbers for a double.

    code_model.py converts the columns itself. A model that predicts a number has no threshold (None).
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    inputs = Schema([ColSpec(AnyType(), name) for name in columns])
    if threshold is None:
        return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(DataType.double, "score")]))
    return ModelSignature(
        inputs=inputs,
        outputs=Schema([ColSpec(DataType.double, "score"), ColSpec(DataType.string, "prediction")]),
        params=ParamSchema([ParamSpec("threshold", DataType.double, threshold)]),
    )


def has_signature(logged: LoggedModel) -> bool:
    """Return whether the model's signature declares its input columns and its output."""
    from mlflow.models import get_model_info

    signature = get_model_info(logged.uri).signature
    return bool(signature and signature.inputs and signature.outputs)


def is_complete(folder: Path) -> bool:
    """Return whether a folder has the files that are needed to load a model."""
    return all((folder / name).is_file() for name in (MODEL_FILE, MLFLOW_FILE))


def _checked(logged: LoggedModel, name: str, digest: str) -> bytes:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        folder = Path(mlflow.artifacts.download_artifacts(logged.uri))
        (folder / MLFLOW_FILE).stat()  # raises if the file is missing
        content = (folder / name).read_bytes()
    except (MlflowException, OSError) as error:
        raise StepFailed(f"Model {logged.uri} can't be read: {message_of(error)}") from error
    if _sha256(content) != digest:
        raise BadData(f"Model {logged.uri} is not the file that its run logged: its SHA-256 differs. Train it again.")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
