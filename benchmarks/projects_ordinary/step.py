"""The floor's five functions as an ordinary multistep MLflow project: one entry point and one interpreter each."""

import sys
from typing import Any

import floor
import mlflow
import work


def main(source: str, folder: str) -> None:
    """Run each entry point below one parent run, and hand on what it left in its run's tags."""

    def run(step: str, **parameters: Any) -> mlflow.entities.Run:
        done = mlflow.projects.run(".", step, parameters=parameters, env_manager="local", run_name=step)
        return mlflow.MlflowClient().get_run(done.run_id)

    mlflow.set_experiment("bench")
    with mlflow.start_run(run_name="pipeline_run"):
        tables = run("prepare_data", source=source, folder=folder).data.tags
        trained = run("train", train_uri=tables["train_uri"]).info.run_id
        judged = run(
            "evaluate", train_run_id=trained, test_uri=tables["test_uri"], folder=f"{folder}/evaluate"
        ).data.tags
        run("feature_importance", train_run_id=trained, train_uri=tables["train_uri"], folder=f"{folder}/importance")
        run("model_qa", test_auc=judged["test_auc"])


def model(train_run_id: str) -> Any:
    """Return the model that the train run logged."""
    return None if work.NOOP else mlflow.sklearn.load_model(f"runs:/{train_run_id}/model")


def step(name: str, *arguments: str) -> None:
    """Do one step in the run that MLflow made for it."""
    with mlflow.start_run():
        if name == "prepare_data":
            train_uri, test_uri = floor.prepare_data(arguments[0], f"{arguments[1]}/delta")
            mlflow.set_tags({"train_uri": train_uri, "test_uri": test_uri})
        elif name == "train":
            floor.train(arguments[0])
        elif name == "evaluate":
            mlflow.set_tag("test_auc", floor.evaluate(model(arguments[0]), *arguments[1:]))
        elif name == "feature_importance":
            floor.feature_importance(model(arguments[0]), *arguments[1:])
        else:
            floor.model_qa(float(arguments[0]))


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    main(*arguments) if name == "main" else step(name, *arguments)
