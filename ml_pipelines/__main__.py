"""`python -m ml_pipelines train ...` does as the console script of the step: a wheel's task may be run either way."""

from __future__ import annotations

from ml_pipelines.cli import tasks

if __name__ == "__main__":
    tasks.main()
