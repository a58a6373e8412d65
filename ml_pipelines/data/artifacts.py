"""Files that a Spark Connect server passes on to its Python workers, such as a model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def send_file(spark: SparkSession, content: bytes, name: str) -> bool:
    """Send a file to the workers, which find it with `SparkFiles.get(name)`. Return False if the server takes no files.

    Sail takes no files.
    """
    from pyspark.errors import UnsupportedOperationException

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            spark.addArtifact(str(path), file=True)
        except UnsupportedOperationException:
            return False
    return True
