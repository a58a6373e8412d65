"""Run the pipeline, or one step of it: `python driver.py --help`.

On Databricks, MLflow pastes this file below its own code: `from __future__` fails, and `__file__` may be missing.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(globals().get("__file__", "driver.py")).resolve().parent))
if not Path(sys.path[0], "ml_pipelines").is_dir():
    sys.path[0] = str(Path.cwd())
if absent := [n for n in ("click", "mlflow", "omegaconf", "polars", "sklearn") if not importlib.util.find_spec(n)]:
    sys.exit(f"driver.py: {sys.executable} can't import {', '.join(absent)}. Run `make setup`. Use .venv/bin/python.")

from ml_pipelines.system import signals

if __name__ == "__main__":
    signals.hold()

import click

from ml_pipelines.backends import catalog, fork_server
from ml_pipelines.config import rules
from ml_pipelines.errors import Interrupted
from ml_pipelines.execution import standalone
from ml_pipelines.planning import plan, resuming, reuse
from ml_pipelines.system import environment, imports, terminal
from ml_pipelines.tracking import ending


def run_pipeline(planned: plan.Plan) -> int:
    """Run the plan's steps under one parent run, each as soon as its inputs exist; return the exit code."""
    backend = planned.backend
    backend.prepare(planned.config, planned.steps)  # a fork server imports modules while this process does
    with imports.many_at_once():
        import mlflow

        from ml_pipelines.running.parent_run import pipeline_run

    catalog.register_backends()
    with pipeline_run(planned) as parent:
        for step in parent.schedule():
            submitted = mlflow.projects.run(
                uri=backend.project(),
                entry_point=step.name,
                parameters=parent.parameters(step),
                experiment_id=parent.experiment_id,
                run_name=step.step_name,
                backend=backend.name,
                backend_config=backend.config(planned.config, step),
                env_manager="local",
                synchronous=False,
            )
            parent.started(step, submitted)
    return parent.exit_code


@click.command(context_settings={"ignore_unknown_options": True, "max_content_width": 110})
@click.option("--profile", show_default="local", metavar="NAME", help="Profile to use: conf/NAME.yaml.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the configuration.")
@click.option("--pipeline", metavar="NAME", help="Pipeline to run: train (the default), or score (docs/scoring.md).")
@click.option("--only", multiple=True, metavar="STEP", help="Run only this step (may be repeated).")
@click.option("--from", "start", metavar="STEP", help="Run this step and all steps that need it.")
@click.option("--to", "end", metavar="STEP", help="Run this step and all steps that it needs.")
@click.option("--force", multiple=True, is_flag=False, flag_value="all", metavar="[STEP]", help="Don't reuse results.")
@click.option("--resume", is_flag=False, flag_value="last", metavar="[RUN]", help="Continue RUN (the last failed run).")
@click.option("--backend", metavar="NAME", help="Backend to use instead of the profile's: forkserver, inline, ...")
@click.option("--dry-run", is_flag=True, help="Show the plan: steps, order, parameters, compute. Execute nothing.")
@click.option("--step", metavar="STEP", help="For MLproject's entry points: run one step in the run that MLflow made.")
@click.argument("inputs", nargs=-1, type=click.UNPROCESSED, metavar="[--INPUT=VALUE...]")
def main(overrides: tuple[str, ...], inputs: tuple[str, ...], step: str | None, dry_run: bool, **chosen: Any) -> None:
    """Run a pipeline, or part of it: prepare_data, train, evaluate and feature_importance, model_qa; or score.

    \b
    python driver.py                                  the five steps on synthetic data
    python driver.py --set data.source.kind=sample    on real data that needs no download
    python driver.py --from train                     train and all steps that need it, on the last run's tables
    """
    try:
        environment.prepare()
        rules.refuse_secrets((text.lstrip("-").partition("=")[0] for text in inputs), given=True)
        config, resumed = resuming.load(overrides, not dry_run, *(chosen[n] for n in ("profile", "pipeline", "resume")))
        if step:
            sys.exit(standalone.run_step(step, config, standalone.parse_parameters(inputs)))
        if inputs:
            standalone.refuse_options(inputs, main)
        backend = catalog.choose(chosen["backend"] or config.backend)
        planned = plan.make_plan(config, backend, resumed, *(chosen[n] for n in ("only", "start", "end", "force")))
        if dry_run:
            return terminal.say(reuse.explain_plan(planned))
        sys.exit(run_pipeline(planned))
    except (Exception, Interrupted) as error:
        sys.exit(ending.end_with(error))


if __name__ == "__main__":
    with fork_server.quick_exit():
        main(prog_name="driver.py")
