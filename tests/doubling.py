"""A model for tests of a registry: it doubles numbers."""

import mlflow


def log_model() -> tuple[str, str]:
    """Log the model in a new run of a workspace, and return the run's id and the model's URI."""

    class Twice(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[float]) -> list[float]:
            return [2 * number for number in model_input]

    mlflow.set_experiment("/Shared/models")
    with mlflow.start_run() as run:
        logged = mlflow.pyfunc.log_model(name="model", python_model=Twice(), input_example=[1.0])
    return str(run.info.run_id), logged.model_uri
