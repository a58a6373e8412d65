"""Opens the parent MLflow run of a pipeline, and closes it at the end, also after an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ml_pipelines.config import rules
from ml_pipelines.data import locations
from ml_pipelines.errors import Interrupted, NothingToDo, one_line, renaming
from ml_pipelines.models import scoring_model
from ml_pipelines.planning import resuming, reuse
from ml_pipelines.planning.memory import Memory
from ml_pipelines.planning.plan import Plan
from ml_pipelines.running import reporting
from ml_pipelines.running.pipeline_run import Lost, PipelineRun
from ml_pipelines.system import events, paths, processes, shortage
from ml_pipelines.text import quoted
from ml_pipelines.tracking import opening, provenance, records, run_page


@contextmanager
def pipeline_run(plan: Plan) -> Iterator[PipelineRun]:
    """Open the parent run, and close it at the end. Under `mlflow run -e main`, use the run that MLflow made.

    Raises:
        ConfigError, BadData: a check before the start of the run failed.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    memory = Memory()
    locations.table_path(plan.config.table_prefix, [], "step", "run", "table")  # raises if the prefix can't hold tables
    with renaming("data.source", plan.config.source_key):
        plan.backend.check(plan.config, plan.steps)
    store = opening.open_store(plan.config)
    adopted = opening.adopt_run(store, "main")
    if adopted:
        store.set_tags(adopted, provenance.provenance_tags())
        experiment = str(store.get_run(adopted).info.experiment_id)
        _report_experiment(plan, store.experiment_name(experiment))
    else:
        experiment = store.experiment_id(plan.config.experiment_name)
    paths.check_writable(store.client.get_experiment(experiment).artifact_location, "the experiment's artifacts")
    store.reap(experiment)
    if any(rules.SCORING_MODEL in step.external for step in plan.steps):
        scoring_model.check(store, plan.config)
    plan, inputs, source = resuming.choose_inputs(plan, store, experiment, memory)
    if not adopted and plan.resumed and not plan.steps and store.get_run(plan.resumed.run_id).info.status == "FINISHED":
        raise NothingToDo(
            f"Nothing to resume: pipeline run {plan.resumed.run_id} finished all of these steps. "
            "To start a new run, leave --resume out."
        )
    if not adopted and (current := reuse.up_to_date_run(plan, inputs, store, experiment, memory)):
        reporting.publish_missing(plan, store, current)
        raise NothingToDo(
            f"Up to date: nothing has changed since pipeline run {current} (--force runs everything again)."
        )
    tags = None if adopted else dict(provenance.provenance_tags())
    parent = None
    try:
        run = mlflow.start_run(
            run_id=adopted, experiment_id=experiment, run_name=plan.config.pipeline.run_name, tags=tags
        )
        parent = PipelineRun(plan, store, memory, run, inputs)
        _describe(parent, source)
        yield parent
        parent.close()
    except Lost as error:  # the step's run stays RUNNING, so that --resume can reattach to it
        with suppress(MlflowException, OSError):
            failed = {"cause": one_line(error), "exit_code": str(error.exit_code)}
            store.close(str(run.info.run_id), "FAILED", failed)
        raise
    except BaseException as error:
        failure: BaseException = error
        if isinstance(error, MlflowException | OSError):
            failure = plan.backend.explain(error) or store.failed(error)
        elif isinstance(error, Exception):
            failure = shortage.explain(error) or error
        with suppress(MlflowException, OSError):  # if the store fails too, the next start closes the runs (Store.reap)
            if parent:
                parent.cancel(one_line(failure))
                if not isinstance(error, Interrupted):
                    parent.skip_rest()
                status = "KILLED" if isinstance(error, Interrupted) else "FAILED"
                store.close(parent.run_id, status, {"cause": one_line(failure)})
            store.close_own(experiment, one_line(failure))
        if failure is error:
            raise
        raise failure from error
    finally:
        for state in parent.scheduler.states.values() if parent else ():
            state.release()
        with suppress(MlflowException, OSError):
            mlflow.end_run(store.get_run(parent.run_id).info.status if parent else "KILLED")


def _report_experiment(plan: Plan, name: str) -> None:
    """Report if `mlflow run` made the run in another experiment than the profile's."""
    wanted = plan.config.experiment_name
    if name != wanted:
        events.report(
            events.Notice(f"`mlflow run` chose experiment {quoted(name)}; the profile's is {quoted(wanted)}.")
        )


def _describe(parent: PipelineRun, source: str | None) -> None:
    """Set the parent run's description and tags, and report the start of the pipeline run."""
    plan, config = parent.plan, parent.plan.config
    kept = {f"{records.KEPT}{name}": str(run_id) for name, run_id in parent.kept.items()}
    more = {"inputs_from": source, **kept} if source else {}
    run_page.describe_pipeline_run(
        parent.store, parent.run_id, config, plan.backend.name, {**processes.process_tag(), **more}
    )
    how = (config.profile, config.spark.engine, plan.backend.name, config.experiment_name)
    events.report(events.PipelineStarted(config.pipeline.run_name, parent.run_id, how))
    if source:
        events.report(events.InputsReused(tuple(sorted(plan.missing)), source))
    for line in plan.resumed.describe(config) if plan.resumed else ():
        events.report(events.Notice(line))
