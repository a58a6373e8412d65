"""Score a Parquet file without a pipeline: `python scoring.py SOURCE MODEL TARGET`, with `--memory` all rows at once.

It reads slices of ROWS rows, and writes one Parquet file of each: the columns of the source, score and prediction.
"""

import sys
from pathlib import Path

import polars as pl
import skops.io

ROWS = 131_072
THRESHOLD = 0.5


def score(source: str, model: str, target: Path, rows: int) -> None:
    """Write the scored rows into the new folder `target`."""
    estimator = skops.io.load(model, trusted=skops.io.get_untrusted_types(file=model))
    names = list(estimator.feature_names_in_)
    table = pl.scan_parquet(source)
    target.mkdir()
    for start in range(0, table.select(pl.len()).collect().item(), rows):
        frame = table.slice(start, rows).collect()
        probability = pl.Series("score", estimator.predict_proba(frame.select(names))[:, 1])
        frame = frame.with_columns(probability, prediction=pl.Series(probability >= THRESHOLD).cast(pl.String))
        frame.write_parquet(target / f"{start}.parquet")


if __name__ == "__main__":
    score(sys.argv[1], sys.argv[2], Path(sys.argv[3]), 10**9 if "--memory" in sys.argv else ROWS)
