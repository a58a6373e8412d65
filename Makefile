# `make run` and `make test` set up whatever they need; a second call doesn't do it again.
PYTHON ?= python3.11
UV_VERSION := 0.13.9
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup run test test-slow chaos load check sync workspace lock bench bench-peers project.zip
help: ## this list
	@grep -E '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## the environment in .venv, pinned, and the MLflow store
$(READY): requirements.lock build-constraints.txt pyproject.toml Makefile
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes \
	  --build-constraints build-constraints.txt -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	MLFLOW_TRACKING_URI=sqlite:///$(CURDIR)/mlflow.db $(BIN)/python -c "from ml_pipelines import tracking; tracking.migrate()"
	touch $@

run: $(READY) ## the five steps on synthetic data
	$(BIN)/python driver.py

test: $(READY) ## the quick tests
	$(BIN)/pytest -n 2 -m "not slow"

test-slow: $(READY) ## the slow ones: the JVM engine, whole set-ups
	$(BIN)/pytest -n 2 -m slow

chaos: $(READY) ## marathons: 2,000 forks, 200 pipelines killed and run again, a long fuzzing
	PYTHONPATH=.:tests $(BIN)/python -c "import sys; from chaos import forks; sys.exit(forks.main())"
	PYTHONPATH=.:tests $(BIN)/python -m chaos.kills
	FUZZ=50 $(BIN)/pytest --timeout=0 tests/test_fuzz.py

load: $(READY) ## 50 pipelines one after another, 8 at once, on one store
	PYTHONPATH=.:tests $(BIN)/python -m chaos.load

check: $(READY) ## format, lint, types, files kept in step, secrets, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/ml-pipelines sync --check
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook
	$(BIN)/python tests/audit.py

sync: $(READY) ## write into MLproject, the bundle and the pins what follows from conf/ and the lock
	$(BIN)/ml-pipelines sync

project.zip: $(READY) ## what git knows of the project: mlflow run project.zip --backend databricks ...
	$(BIN)/python -c "from pathlib import Path; from ml_pipelines.databricks import projects; projects.archive(Path('$@'))"

workspace: $(READY) ## an emulated Databricks workspace on this machine, until Ctrl-C (docs/emulator.md; FAULTS="--fault 429::3")
	PYTHONPATH=tests/databricks $(BIN)/python -m emulator $(FAULTS)

bench: $(READY) ## measure beside the floor and plain MLflow Projects; writes docs/benchmarks.md (BENCH=--large for 20,000,000 rows)
	$(BIN)/python benchmarks/bench.py $(BENCH)
	$(BIN)/python benchmarks/report.py

bench-peers: $(READY) ## the same steps by Kedro, Metaflow, Dagster and DVC, in environments of their own
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/report.py

lock: ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --build-constraints build-constraints.txt --extra local --group dev pyproject.toml -o requirements.lock
