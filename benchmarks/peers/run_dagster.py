"""The five functions as a Dagster job, in one process."""

import sys

import work
from dagster import Out, job, op

SOURCE, FOLDER = sys.argv[1:3]


@op(out={"train_uri": Out(str), "test_uri": Out(str)})
def prepare_data():
    return work.prepare_data(SOURCE, f"{FOLDER}/delta")


@op
def train(train_uri: str):
    return work.train(train_uri)[0]


@op
def evaluate(model, test_uri: str) -> float:
    return work.evaluate(model, test_uri, f"{FOLDER}/evaluate")["test_auc"]


@op
def importance(model, train_uri: str):
    return work.feature_importance(model, train_uri, f"{FOLDER}/importance")


@op
def qa(auc: float, importances):
    return work.model_qa(auc)


@job
def pipeline():
    train_uri, test_uri = prepare_data()
    model = train(train_uri)
    qa(evaluate(model, test_uri), importance(model, train_uri))


if __name__ == "__main__":
    if not pipeline.execute_in_process().success:
        sys.exit(1)
