"""The five functions as a Kedro pipeline, in one process."""

import sys

import work
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner

source, folder = sys.argv[1:3]
pipeline = Pipeline(
    [
        node(
            lambda path: work.prepare_data(path, f"{folder}/delta"), "source", ["train_uri", "test_uri"], name="prepare"
        ),
        node(lambda uri: work.train(uri)[0] or 0, "train_uri", "model", name="train"),
        node(
            lambda model, uri: work.evaluate(model, uri, f"{folder}/evaluate")["test_auc"],
            ["model", "test_uri"],
            "auc",
            name="evaluate",
        ),
        node(
            lambda model, uri: work.feature_importance(model, uri, f"{folder}/importance"),
            ["model", "train_uri"],
            "importance",
            name="importance",
        ),
        node(lambda auc, _: work.model_qa(auc), ["auc", "importance"], "report", name="qa"),
    ]
)
SequentialRunner().run(pipeline, DataCatalog({"source": MemoryDataset(source)}))
