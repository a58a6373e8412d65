"""The data: one Parquet file with `id`, 20 float32 features and a binary label. It is made only once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

FEATURES = 20
CHUNK = 1_000_000  # rows that are made and written at a time


def make_wide(columns: int, folder: Path) -> Path:
    """Return a CSV with 300 rows, an `id`, a binary label and other number columns, `columns` in all."""
    path = folder / f"columns_{columns}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0).standard_normal((300, columns - 2))
    lines = [",".join(["id", *(f"f{i}" for i in range(columns - 2)), "label"])]
    lines += [",".join([str(i), *map(repr, cells.tolist()), str(i % 2)]) for i, cells in enumerate(numbers)]
    path.write_text("\n".join(lines) + "\n")
    return path


def make(rows: int, folder: Path) -> Path:
    """Return a Parquet file with `rows` rows in `folder`; make it if it does not exist."""
    path = folder / f"rows_{rows}.parquet"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    weights = (random.standard_normal(FEATURES) / np.arange(1, FEATURES + 1)).astype(np.float32)
    names = [f"f{i}" for i in range(FEATURES)]
    schema = pa.schema([("id", pa.int64()), *((name, pa.float32()) for name in names), ("label", pa.int32())])
    partial = path.with_suffix(".partial")
    with parquet.ParquetWriter(partial, schema) as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            features = random.standard_normal((count, FEATURES), dtype=np.float32)
            score = 2 * features @ weights + features[:, 0] * features[:, 1]
            label = (random.random(count) < 1 / (1 + np.exp(-score))).astype(np.int32)
            columns = [np.arange(start, start + count), *features.T, label]
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))
    return partial.rename(path)
