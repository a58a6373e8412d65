# The targets below create the environment first if it does not exist.
PYTHON ?= python3.11
UV_VERSION := 0.13.9
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup run test test-slow chaos mutants load simulate check sync workspace lock bench bench-peers project.zip
help: ## show this list
	@grep -E '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## install the pinned environment into .venv and create the MLflow store
$(READY): requirements.lock build-constraints.txt pyproject.toml Makefile
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes \
	  --build-constraints build-constraints.txt -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	env -u MLFLOW_TRACKING_URI $(BIN)/python -c "from ml_pipelines.tracking import opening; opening.migrate()"
	touch $@

run: $(READY) ## run the five steps on synthetic data
	$(BIN)/python driver.py

test: $(READY) ## run the quick tests
	$(BIN)/pytest -n 2 -m "not slow"

test-slow: $(READY) ## run the slow tests: the JVM engine, complete set-ups
	$(BIN)/pytest -n 2 -m slow

chaos: $(READY) ## run the marathon tests: 2,000 forks, 200 killed and repeated pipelines, long fuzzing
	PYTHONPATH=.:tests $(BIN)/python -c "import sys; from chaos import forks; sys.exit(forks.main())"
	PYTHONPATH=.:tests $(BIN)/python -m chaos.kills
	FUZZ=50 $(BIN)/pytest --timeout=0 tests/test_fuzz.py

mutants: $(READY) ## change the code in a hundred places, one at a time, and count how often a test fails
	PYTHONPATH=.:tests $(BIN)/python -m chaos.mutants

load: $(READY) ## run 50 pipelines one after another, and 8 at once, on one store
	PYTHONPATH=.:tests $(BIN)/python -m chaos.load

simulate: $(READY) ## simulate intervals, the default model and the gate; write the tables into docs/qa.md and docs/models.md
	PYTHONPATH=.:tests $(BIN)/python -m chaos.simulate
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(BIN)/python -m chaos.simulate_metrics
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(BIN)/python -m chaos.simulate_models
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(BIN)/python -m chaos.simulate_gate

check: $(READY) ## check format, lint, types, import rules, generated files, secrets and known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/ml-pipelines sync --check
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook
	$(BIN)/python tests/audit.py

sync: $(READY) ## update MLproject, the bundle, the pins and conf/schema.json from conf/, steps/ and the lock file
	$(BIN)/ml-pipelines sync

project.zip: $(READY) ## archive the files that git knows, for mlflow run project.zip --backend databricks
	$(BIN)/python -c "from pathlib import Path; from ml_pipelines.databricks import projects; projects.archive(Path('$@'))"

workspace: $(READY) ## run an emulated Databricks workspace until Ctrl-C (docs/emulator.md; FAULTS="--fault 429::3")
	PYTHONPATH=tests/databricks $(BIN)/python -m emulator $(FAULTS)

bench: $(READY) ## measure this project, plain scripts and MLflow Projects; write docs/benchmarks.md (BENCH=--large: more rows)
	$(BIN)/python benchmarks/bench.py $(BENCH)
	$(BIN)/python benchmarks/report.py

bench-peers: $(READY) ## measure the same steps in Kedro, Metaflow, Dagster and DVC, each in its own environment
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/report.py

lock: ## update requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --build-constraints build-constraints.txt --extra local --extra catboost --extra lightgbm \
	  --extra explain --group dev pyproject.toml -o requirements.lock
	printf 'flask\nflask-cors\nmoto[s3]\n' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate - -o tests/object_store.lock
