"""The five functions as a Metaflow flow: a process a step, evaluate and importance side by side."""

import os

import work
from metaflow import FlowSpec, step

SOURCE, FOLDER = os.environ["BENCH_SOURCE"], os.environ["BENCH_FOLDER"]


class Flow(FlowSpec):
    @step
    def start(self):
        self.train_uri, self.test_uri = work.prepare_data(SOURCE, f"{FOLDER}/delta")
        self.next(self.train)

    @step
    def train(self):
        self.model = work.train(self.train_uri)[0]
        self.next(self.evaluate, self.importance)

    @step
    def evaluate(self):
        self.auc = work.evaluate(self.model, self.test_uri, f"{FOLDER}/evaluate")["test_auc"]
        self.next(self.qa)

    @step
    def importance(self):
        work.feature_importance(self.model, self.train_uri, f"{FOLDER}/importance")
        self.next(self.qa)

    @step
    def qa(self, inputs):
        work.model_qa(inputs.evaluate.auc)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Flow()
