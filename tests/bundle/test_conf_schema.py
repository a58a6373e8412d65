"""Tests of conf/schema.json: editors check the files in conf/ with it."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from jsonschema import Draft7Validator

from ml_pipelines.config import loading
from ml_pipelines.errors import ConfigError

CONF = ROOT / "conf"
VALIDATOR = Draft7Validator(json.loads((CONF / "schema.json").read_text(encoding="utf-8")))


def problems(content: str) -> list[str]:
    """Return what the schema says against a profile."""
    return [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(content))]


def loads(content: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the profile can be loaded."""
    for file in CONF.glob("*.yaml"):
        (folder / file.name).write_text(file.read_text())
    (folder / "mine.yaml").write_text((CONF / "local.yaml").read_text() + content)
    monkeypatch.setattr("ml_pipelines.system.paths.conf", lambda: folder)
    try:
        loading.load("mine")
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.name)
def test_the_schema_accepts_the_files_in_conf_and_each_names_it(file: Path) -> None:
    Draft7Validator.check_schema(VALIDATOR.schema)
    text = file.read_text(encoding="utf-8")
    assert problems(text) == []
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")


ACCEPTED = [
    "data: {label: 1E5, positive: 1, drop: [opened, 2024]}",
    "data: {source: {kind: file, path: '${oc.env:ROWS}', version: null}}",
    "seed: ${oc.decode:${oc.env:SEED,7}}",
    "contract: {age: {type: integer, min: 0, nullable: true}}",
    "steps: {train: {timeout_s: 60, params: {options: {max_iter: 5}}}}",
    "score: {source: {kind: sample}, features: false}",
]
REFUSED = [
    "seeed: 7",
    "seed: seven",
    "seed: 1.5",
    "reuse: perhaps",
    "data: {lable: churned}",
    "data: {drop: since}",
    "data: {label: [a, b]}",
    "data: {missing_label: dorp}",
    "data: {source: rows.csv}",
    "data: {source: {kind: excel}}",
    "data: {columns: {zip: text}}",
    "contract: {age: {typ: integer}}",
    "steps: {trian: {params: {scale: true}}}",
    "steps: {train: {params: {categorys: one_hot}}}",
    "steps: {train: {retries: often}}",
    "steps: {model_qa: {params: {slices: purpose}}}",
]


@pytest.mark.parametrize("content", ACCEPTED)
def test_the_schema_accepts_what_loading_accepts(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS", "rows.csv")
    assert problems(content) == []
    assert loads(content, tmp_path, monkeypatch)


@pytest.mark.parametrize("content", REFUSED)
def test_the_schema_refuses_what_loading_refuses(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(content)
    assert not loads(content, tmp_path, monkeypatch)
