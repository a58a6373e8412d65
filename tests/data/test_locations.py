"""Whether a path or URI is below another one."""

from pathlib import Path

import pytest

from ml_pipelines.data import locations


@pytest.mark.parametrize(
    ("uri", "prefix", "is_below"),
    [
        ("/data/delta/train", "/data/delta", True),
        ("/data/delta/train", "/data/delta/", True),
        ("/data/delta/a/../train", "/data/delta", True),
        ("/data/x/../delta/train", "/data/y/../delta", True),
        ("file:///data/delta/train", "/data/delta", True),
        ("/data/delta", "/data/delta", False),
        ("/data/delta2/train", "/data/delta", False),
        ("/data/delta/../elsewhere", "/data/delta", False),
        ("/data/delta/../../etc/passwd", "/data/delta", False),
        ("/data/delta/..", "/data/delta", False),
        ("file:///data/delta/%2e%2e/elsewhere", "/data/delta", False),
        ("s3://bucket/delta/train", "s3://bucket/delta", True),
        ("s3://bucket/delta//train", "s3://bucket/delta", True),
        ("s3://bucket/train", "s3://bucket", True),
        ("s3://bucket/delta/../elsewhere", "s3://bucket/delta", False),
        ("s3://bucket/delta/%2E%2e/elsewhere", "s3://bucket/delta", False),
        ("s3://bucket/delta/../../other/delta/train", "s3://bucket/delta", False),
        ("s3://other/delta/train", "s3://bucket/delta", False),
        ("gs://bucket/delta/train", "s3://bucket/delta", False),
        ("s3://bucket2/train", "s3://bucket", False),
        ("abfss://box@account.example/delta/train", "abfss://box@account.example/delta", True),
        ("/Volumes/a/b/../c/train", "/Volumes/a/b", False),
        ("/data/delta/\0", "/other", False),
    ],
)
def test_both_are_resolved_before_they_are_compared(uri: str, prefix: str, is_below: bool) -> None:
    assert locations.is_below(uri, prefix) is is_below


def test_a_link_leads_elsewhere(tmp_path: Path) -> None:
    for name in ("delta", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "delta" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in").symlink_to(tmp_path / "delta")
    assert not locations.is_below(str(tmp_path / "delta" / "out" / "train"), str(tmp_path / "delta"))
    assert locations.is_below(str(tmp_path / "in" / "train"), str(tmp_path / "delta"))
    assert locations.is_below(str(tmp_path / "delta" / "train"), str(tmp_path / "in"))


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.csv").write_text("x")
    for name, target in (("self", tmp_path / "a"), ("above", tmp_path)):
        (tmp_path / "a" / name).symlink_to(target)
    assert locations.data_files(tmp_path / "a") == [tmp_path / "a" / "x.csv"]
