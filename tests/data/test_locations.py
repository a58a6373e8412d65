"""Whether a path or URI is below another one."""

from pathlib import Path

import pytest

from ml_pipelines.data import locations
from ml_pipelines.errors import BadData


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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with a CSV and a sub-folder, next to a folder of somebody else."""
    for name in ("source/x.csv", "source/sub/y.csv", "elsewhere/z.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(f"name\n{name}\n")
    return tmp_path / "source"


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("elsewhere", "is not in"),
        ("elsewhere/z.csv", "is not in"),
        (".", "is not in"),
        ("source", "is not in"),
        ("source/gone", "does not exist"),
        ("gone.csv", "does not exist"),
    ],
)
@pytest.mark.parametrize("place", ["link", "sub/link"])
def test_a_link_that_leads_out_of_the_source_is_refused(source: Path, target: str, problem: str, place: str) -> None:
    (source / place).symlink_to(source.parent / target)
    with pytest.raises(BadData) as error:
        locations.data_files(source)
    assert f"{source / place} is a symbolic link to {(source.parent / target).resolve()}, which {problem}" in str(
        error.value
    )


@pytest.mark.parametrize("target", ["x.csv", "sub", "sub/y.csv"])
def test_a_file_with_two_names_is_refused(source: Path, target: str) -> None:
    (source / "link").symlink_to(source / target)
    with pytest.raises(BadData, match="are one file, and its rows would count twice"):
        locations.data_files(source)


def test_a_link_to_a_hidden_file_of_the_source_is_read(source: Path) -> None:
    (source / "..data").mkdir()  # as Kubernetes mounts files
    (source / "..data" / "v.csv").write_text("name\nv\n")
    (source / "v.csv").symlink_to(source / "..data" / "v.csv")
    assert [file.name for file in locations.data_files(source)] == ["y.csv", "v.csv", "x.csv"]


def test_the_source_itself_may_be_a_link(source: Path) -> None:
    (source.parent / "link").symlink_to(source)
    assert [file.name for file in locations.data_files(source.parent / "link")] == ["y.csv", "x.csv"]


@pytest.mark.parametrize("name", ["_rows.csv", ".rows.csv"])
def test_a_single_file_that_spark_passes_over_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(BadData, match=r"Spark passes over names with _ or \. in front\. Rename"):
        locations.data_files(tmp_path / name)
