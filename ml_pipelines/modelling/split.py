"""The split by a hash: its identity, and which keys are on its test side, computed without Spark."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.data.cells import canonical

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]

BUCKETS = 10_000  # a hash puts each row into one of these buckets, so test_fraction works to four digits
START = 42  # the seed with which Spark's xxhash64 begins
PRIMES = (
    *(0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63),
    0x27D4EB2F165667C5,
)


@dataclass(frozen=True)
class Split:
    """The settings that decide on which side of the split a row is. Runs and registered versions have them as tags.

    Args:
        key: the column whose hash decides, by its name in our tables; empty: the hash covers the row.
        seed: data.split_seed.
        fraction: the share of the test side.
        columns: without a key, a digest of the names and types of the hashed columns.
    """

    key: str
    seed: int
    fraction: float
    columns: str = ""

    def tags(self) -> dict[str, str]:
        """Return the tags that hold this split."""
        kind = "key" if self.key else "row"
        tags = {"split_kind": kind, "split_seed": str(self.seed), "split_fraction": str(self.fraction)}
        return tags | ({"split_key": self.key} if self.key else {"split_columns": self.columns})

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Split | None:
        """Return the split that these tags hold, or None if they hold none."""
        if tags.get("split_kind") not in ("key", "row"):
            return None
        try:
            seed, fraction = int(tags["split_seed"]), float(tags["split_fraction"])
        except (KeyError, ValueError):
            return None
        return cls(tags.get("split_key", ""), seed, fraction, tags.get("split_columns", ""))

    def is_test(self, keys: pl.Series) -> Array:
        """Return for each key whether this split puts it on the test side, as Spark does in steps/prepare_data.py."""
        import numpy as np

        encoded = canonical(keys.to_arrow()).dictionary_encode()
        buckets = spark_hash(encoded.dictionary.to_pylist(), self.seed).astype(np.int64) % BUCKETS
        sides: Array = (buckets < round(self.fraction * BUCKETS))[encoded.indices.to_numpy()]
        return sides


def digest_of(columns: Iterable[tuple[str, str]]) -> str:
    """Return a digest of the names and types of columns, whatever their order."""
    return hashlib.sha256(repr(sorted(columns)).encode()).hexdigest()[:16]


def spark_hash(texts: list[str], seed: int) -> Array:
    """Return Spark's `xxhash64(text, seed)` of each text, as unsigned numbers.

    Algorithm: XXH64 (Collet 2012). Texts of the same length are hashed at once.
    """
    import numpy as np

    encoded = [text.encode() for text in texts]
    lengths = np.array([len(text) for text in encoded])
    hashes = np.empty(len(texts), np.uint64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        data = np.frombuffer(b"".join(encoded[row] for row in rows), np.uint8).reshape(len(rows), length)
        hashes[rows] = _xxh64(data, np.full(len(rows), START, np.uint64))
    width = 4 if -(2**31) <= seed < 2**31 else 8  # Spark's int or bigint
    number = np.frombuffer(seed.to_bytes(width, "little", signed=True), np.uint8)
    return _xxh64(np.broadcast_to(number, (len(texts), width)), hashes)


def _xxh64(data: Array, seed: Array) -> Array:
    """Return the XXH64 of each row of bytes, with a seed for each row."""
    import numpy as np

    p1, p2, p3, p4, p5 = (np.uint64(prime) for prime in PRIMES)
    length, at = data.shape[1], 0

    def rotated(value: Array, bits: int) -> Array:
        return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))

    def lane(width: int) -> Array:
        part = np.ascontiguousarray(data[:, at : at + width]).view(f"<u{width}")[:, 0]
        return part.astype(np.uint64)

    if length >= 32:
        lanes = [seed + p1 + p2, seed + p2, seed.copy(), seed - p1]
        while at <= length - 32:
            for i in range(4):
                lanes[i] = rotated(lanes[i] + lane(8) * p2, 31) * p1
                at += 8
        value = rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) + rotated(lanes[3], 18)
        for one in lanes:
            value = (value ^ rotated(one * p2, 31) * p1) * p1 + p4
    else:
        value = seed + p5
    value = value + np.uint64(length)
    while at <= length - 8:
        value = rotated(value ^ rotated(lane(8) * p2, 31) * p1, 27) * p1 + p4
        at += 8
    if at <= length - 4:
        value = rotated(value ^ lane(4) * p1, 23) * p2 + p3
        at += 4
    while at < length:
        value = rotated(value ^ lane(1) * p5, 11) * p1
        at += 1
    value = (value ^ (value >> np.uint64(33))) * p2
    value = (value ^ (value >> np.uint64(29))) * p3
    result: Array = value ^ (value >> np.uint64(32))
    return result
