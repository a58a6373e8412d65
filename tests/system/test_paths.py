"""Paths: one safe, deterministic path for each table, and a store address that means the same in every folder."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_pipelines.data import locations
from ml_pipelines.errors import ConfigError
from ml_pipelines.system import paths

# Names as people write them: short and made of few characters, so that similar names occur.
NAMES = st.one_of(st.text(), st.text("aA1_-./ %é#", max_size=6), st.text("ab ", min_size=78, max_size=84))
ODD = ["", ".", "..", "a/../b", "a\nb", "a b", "a#b", "a?b", "a%20b", "{}", "é", "\x00", "a" * 300, "-", "a.", "CON é"]


@settings(deadline=None)
@given(NAMES)
def test_a_slug_is_one_plain_part_of_a_path(name: str) -> None:
    slug = paths.slug(name)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,89}", slug)
    assert slug[0] not in ".-" and slug[-1] not in ".-"


@pytest.mark.parametrize("name", ODD)
def test_an_unusual_name_becomes_a_plain_part_of_a_path(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,88}", paths.slug(name))


@settings(deadline=None)
@given(NAMES, NAMES)
@example("a b", "a_b")
@example("a b", "a%b")
@example("", "x")
@example("a" * 80, "a" * 81)
@example("a", "a.")
def test_two_names_never_share_a_slug(one: str, other: str) -> None:
    assert (paths.slug(one) == paths.slug(other)) == (one == other)


@settings(deadline=None)
@given(NAMES)
def test_a_name_that_looks_like_a_slug_gets_another_slug(name: str) -> None:
    changed = paths.slug(name)
    assert changed == name or paths.slug(changed) != changed


def test_a_plain_name_does_not_change() -> None:
    assert paths.slug("local_pipeline_experiment-2.1") == "local_pipeline_experiment-2.1"


def test_a_tables_path_is_deterministic_and_below_the_project() -> None:
    path = locations.table_path(".data/delta", ["dev", "my exp"], "01_prepare", "0123456789abcdef", "train")
    assert path == f"{paths.root()}/.data/delta/dev/{paths.slug('my exp')}/01_prepare_01234567/train"


@settings(deadline=None)
@given(st.lists(NAMES, max_size=3), NAMES, NAMES)
def test_no_name_escapes_the_prefix(parts: list[str], step_name: str, dataset: str) -> None:
    path = locations.table_path("/data", parts, step_name, "0123456789abcdef", dataset)
    assert len(Path(path).parts) == 2 + len(parts) + 2
    assert ".." not in Path(path).parts and Path(path).is_relative_to("/data")


@pytest.mark.parametrize("prefix", ["/data", "/data/", "s3://bucket/delta", "abfss://c@a.dfs.core.windows.net/x"])
def test_an_absolute_prefix_or_a_uri_is_used_unchanged(prefix: str) -> None:
    assert locations.table_path(prefix, ["dev"], "s", "r" * 32, "t") == f"{prefix.rstrip('/')}/dev/s_rrrrrrrr/t"


@pytest.mark.parametrize("prefix", ["/my data", "/a#b", "/a?b", "/a%20b", "/{x}", "/é", "s3://bucket/a b", "/a\nb"])
def test_a_prefix_that_delta_readers_cannot_open_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.delta_prefix: .*Set data\.delta_prefix\.local"):
        locations.table_path(prefix, ["dev"], "s", "r" * 32, "t")


def test_a_relative_sqlite_address_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.absolute_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert paths.absolute_uri("sqlite:///b.db?timeout=3") == f"sqlite:///{tmp_path}/b.db?timeout=3"


@pytest.mark.parametrize(
    "uri", ["sqlite:////abs/b.db", "sqlite:///:memory:", "http://127.0.0.1:5000", "databricks", "databricks://p"]
)
def test_other_addresses_do_not_change(uri: str) -> None:
    assert paths.absolute_uri(uri) == uri


def test_the_default_store_is_beside_mlproject() -> None:
    assert (paths.root() / "MLproject").is_file()
    assert paths.sqlite_uri() == f"sqlite:///{paths.root()}/mlflow.db"
