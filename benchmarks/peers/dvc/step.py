"""One step of the DVC pipeline beside this file; what steps hand on are files."""

import json
import os
import pickle
import sys
from pathlib import Path

import work


def main(step: str) -> None:
    if step == "prepare":
        work.prepare_data(os.environ["BENCH_SOURCE"], "delta")
        for side in ("train", "test"):
            Path("delta", side).mkdir(parents=True, exist_ok=True)
    elif step == "train":
        Path("model.pkl").write_bytes(pickle.dumps(work.train("delta/train")[0]))
    elif step == "qa":
        Path("report.json").write_text(json.dumps(work.model_qa(json.loads(Path("auc.json").read_text()))))
    else:
        model = pickle.loads(Path("model.pkl").read_bytes())
        Path(step).mkdir(exist_ok=True)
        if step == "evaluate":
            auc = work.evaluate(model, "delta/test", step)["test_auc"]
            Path("auc.json").write_text(json.dumps(auc))
        else:
            work.feature_importance(model, "delta/train", step)


main(sys.argv[1])
