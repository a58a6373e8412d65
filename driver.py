"""Run the pipeline, or one step of it: `python driver.py --help`.

On Databricks, MLflow pastes this file's text below a preamble of its own. It therefore begins with no
`from __future__`, asks for no `__file__`, and puts the working directory on the path itself.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))
if absent := [n for n in ("click", "mlflow", "omegaconf", "polars", "sklearn") if not importlib.util.find_spec(n)]:
    sys.exit(
        f"driver.py: {sys.executable} can't import {', '.join(absent)}. "
        "Run `make setup`, then `source .venv/bin/activate`, and try again."
    )

import click

from ml_pipelines import alone, config, forking, imports, plan, reuse, terminal, tracking
from ml_pipelines.errors import Interrupted, PipelineError, one_line
from ml_pipelines.signals import raise_on_signals

terminal.quieten()


def run_pipeline(planned: plan.Plan, resume: str | None) -> int:
    """Run the plan's steps under one parent run, each as soon as its inputs are there; return the exit code."""
    if planned.backend == "forkserver":
        forking.start(tracking.store_uri(planned.config), planned.fitting_first)  # its imports go on beside ours
    with imports.uncollected():
        import mlflow

        from ml_pipelines import backends, pipeline

    backends.register()
    with pipeline.pipeline_run(planned, resume) as parent:
        for step in parent.schedule():
            submitted = mlflow.projects.run(
                uri=planned.project(),
                entry_point=step.key,
                parameters=parent.parameters(step),
                experiment_id=parent.experiment_id,
                run_name=step.step_name,
                backend=planned.backend,
                backend_config=planned.backend_config(step),
                env_manager="local",
                synchronous=False,
            )
            parent.started(step, submitted)
    return parent.exit_code


@click.command(context_settings={"ignore_unknown_options": True, "max_content_width": 110})
@click.option("--profile", default="local", show_default=True, metavar="NAME", help="A file of conf/: where and how.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the configuration.")
@click.option("--only", multiple=True, metavar="STEP", help="Run only this step (may be repeated).")
@click.option("--from", "start", metavar="STEP", help="Run this step and all that need it.")
@click.option("--to", "end", metavar="STEP", help="Run this step and all that it needs.")
@click.option("--force", multiple=True, is_flag=False, flag_value="all", metavar="[STEP]", help="Run it anyway.")
@click.option("--resume", metavar="RUN", help="Go on from a pipeline run: what it finished is not run again.")
@click.option("--backend", metavar="NAME", help="Where steps run, instead of the profile's: forkserver, inline, ...")
@click.option("--dry-run", is_flag=True, help="Show the plan: steps, order, parameters, compute. Execute nothing.")
@click.option("--step", metavar="STEP", help="Run one step in the run that MLflow made (MLproject's entry points).")
@click.argument("inputs", nargs=-1, type=click.UNPROCESSED, metavar="[--INPUT=VALUE...]")
def main(profile: str, overrides: tuple[str, ...], inputs: tuple[str, ...], step: str | None, **chosen: Any) -> None:
    """Run the pipeline, or part of it: prepare_data, train, evaluate and feature_importance, model_qa.

    \b
    python driver.py                                  the five steps on synthetic data
    python driver.py --set data.source.kind=sample    on real data that needs no download
    python driver.py --from train                     again from train on, on the tables of the last run
    """
    try:
        config.refuse_secrets((text.lstrip("-").partition("=")[0] for text in inputs), given=True)
        settings = config.load(profile, overrides)
        if step:
            sys.exit(alone.run_step(step, settings, alone.parameters(inputs)))
        if inputs:
            raise click.UsageError(f"No such option: {' '.join(inputs)}")
        planned = plan.make(settings, *(chosen[name] for name in ("backend", "only", "start", "end", "force")))
        if chosen["dry_run"]:
            terminal.say(planned.describe(reuse.explain(planned)))
        else:
            sys.exit(run_pipeline(planned, chosen["resume"]))
    except (PipelineError, Interrupted) as error:
        (terminal.complain if error.exit_code else terminal.say)(one_line(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    raise_on_signals()
    with forking.leaving():
        main(prog_name="driver.py")
