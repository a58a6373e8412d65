"""Runs a pipeline: opens the parent MLflow run, yields steps that can start, and closes the run with its status."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from queue import Queue
from threading import Thread, Timer
from typing import TYPE_CHECKING

from ml_pipelines.config import rules
from ml_pipelines.config.schema import Step
from ml_pipelines.data import locations
from ml_pipelines.errors import Interrupted, NothingToDo, QaRefused, StepFailed, TimedOut, one_line, renaming
from ml_pipelines.models import scoring_model
from ml_pipelines.planning import resuming, reuse
from ml_pipelines.planning.backend import SubmittedStep
from ml_pipelines.planning.decisions import Decision, Reason
from ml_pipelines.planning.memory import Memory
from ml_pipelines.planning.plan import Plan
from ml_pipelines.running import twins
from ml_pipelines.running.scheduler import Phase, Scheduler, StepState
from ml_pipelines.system import events, paths, processes, shortage, terminal
from ml_pipelines.system.events import StepEnded
from ml_pipelines.text import quoted
from ml_pipelines.tracking import lineage, opening, provenance, records, run_page
from ml_pipelines.tracking.store import PARENT, Store

if TYPE_CHECKING:
    from mlflow.entities import Run

BACKOFF_S = 1.0  # seconds before the second try of a step; doubled before each further try
OBVIOUS = (Reason.first_run, Reason.off, Reason.elsewhere)  # reasons to run that a step's line does not show


class Lost(StepFailed):
    """Contact with a step on Databricks is lost. Its MLflow run stays RUNNING, so that --resume can find the step."""


class PipelineRun:
    """A pipeline run in progress. It yields the steps whose inputs exist, and records their outputs."""

    def __init__(self, plan: Plan, store: Store, memory: Memory, run: Run, inputs: Mapping[str, Run]) -> None:
        self.plan = plan
        self.store = store
        self.memory = memory
        self.resumed = plan.resumed.run_id if plan.resumed else None
        self.run_id = str(run.info.run_id)
        self.experiment_id = str(run.info.experiment_id)
        self._in_own_experiment = store.experiment_name(self.experiment_id) == plan.config.experiment_name
        self.scheduler = Scheduler(plan.steps, plan.needs, plan.config.max_parallel, plan.config.fail_fast)
        self._producers = dict(inputs)  # output -> the run that wrote it
        outputs = {name: plan.config.steps[name].outputs for name in plan.kept}
        self.kept = {name: inputs[out].info.run_id for name in outputs for out in outputs[name] if out in inputs}
        self._ended: Queue[StepState] = Queue()  # steps whose process has ended, or whose next try is due
        self._told: list[StepEnded] = []
        self._verdict: dict[str, str] = {}  # tags of steps that the pipeline run gets too
        self._started = time.monotonic()

    def schedule(self) -> Iterator[Step]:
        """Yield each step as soon as its inputs exist; skip a step whose inputs will never exist."""
        while not self.scheduler.is_over:
            while state := self.scheduler.next_ready():
                if failed := self.scheduler.failure_before(state):
                    self._skip(state, failed)
                elif not self._decide(state):
                    self._pause(state, twins.POLL_S)
                elif self._reuse(state):
                    state.phase = Phase.done
                else:
                    state.phase = Phase.running
                    if running := self._take_over(state):
                        self.started(state.step, running)
                    else:
                        yield state.step
            if not self.scheduler.is_over:
                self._take_in(self._ended.get())

    def parameters(self, step: Step) -> dict[str, str]:
        """Return the parameters of the step's entry point, including its inputs."""
        outputs = {name: lineage.outputs(run)[name] for name, run in self._producers.items()}
        return self.plan.parameters(step, outputs)

    def started(self, step: Step, submitted: SubmittedStep) -> None:
        """Record that the backend now runs this step."""
        state, backend = self.scheduler.states[step.name], self.plan.backend
        state.submitted = running = backend.follow(self.store, step, submitted)
        state.attempts += 1
        attempt = {"attempt": str(state.attempts)} if state.attempts > 1 else {}
        reuse.record(self.store, str(running.run_id), _decision(state), attempt)
        events.report(events.StepStarted(step.name, str(running.run_id), state.attempts))
        self._share()

        def stop() -> None:
            state.is_overdue = True
            backend.stop(running)

        def wait() -> None:
            limit = Timer((step.timeout_s or 0) + processes.GRACE_S, stop)  # a step should stop itself GRACE_S earlier
            limit.daemon = True
            if step.timeout_s and backend.enforces_time_limits:
                limit.start()
            try:
                running.wait()
            except Exception as error:  # nobody can catch an error of this thread, so _closed reports it
                state.broken = error
            finally:
                limit.cancel()
                self._ended.put(state)

        Thread(target=wait, daemon=True, name=f"wait-{step.name}").start()

    def _share(self) -> None:
        """Divide the processors among the steps that run now."""
        running = [state.submitted for state in self.scheduler.running if state.submitted]
        for submitted in running:
            self.plan.backend.share(submitted, len(running))

    def _take_over(self, state: StepState) -> SubmittedStep | None:
        """Reattach to the step if the resumed pipeline run left it running, and move the step's run below this run.

        Return None if the step is not running.
        """
        if self.resumed is None:
            return None
        inputs = self.parameters(state.step)
        running = self.plan.backend.take_over(self.store, self.plan.config, state.step, inputs, self.resumed)
        if running:
            self.store.set_tags(running.run_id, {PARENT: self.run_id})
            text = f"taken over from pipeline run {self.resumed[:8]}, whose driver is gone"
            events.report(events.StepOutput(state.name, text))
        return running

    def _decide(self, state: StepState) -> bool:
        """Decide whether the step runs or is reused. Return False if an equal pipeline run is running the step now."""
        decide = partial(
            reuse.decide, self.plan, state.step, self._producers, self.store, self.experiment_id, self.memory
        )
        state.decision = decision = decide()
        if decision.run:
            return True
        if not twins.may_run(self.store, self.experiment_id, state, decision):
            twins.report_waiting(self.store, self.experiment_id, state, decision)
            return False
        if state.lease and twins.has_finished(self.store, self.experiment_id, state, decision):
            state.decision = decide()  # the equal run ended after the first decision, so its result can be reused now
        return True

    def _pause(self, state: StepState, delay_s: float) -> None:
        state.phase = Phase.paused
        timer = Timer(delay_s, self._ended.put, (state,))
        timer.daemon = True
        timer.start()

    def _reuse(self, state: StepState) -> bool:
        """Reuse the finished run that `_decide` found. Return whether there is one."""
        step, decision = state.step, _decision(state)
        if decision.run is None:
            return False
        state.release()
        run = lineage.copy_run(self.store, decision.run, self.run_id, step.step_name, reuse.decision_tags(decision))
        self._producers |= dict.fromkeys(step.outputs, run)
        self._tell(StepEnded(step.step_name, "reused", None, run.data.tags.get("summary", ""), str(decision)))
        self._headline(step, run)
        return True

    def _take_in(self, state: StepState) -> None:
        """Record that a step has ended, or that the pause before its next try is over."""
        if state.phase is Phase.paused:
            state.phase = Phase.waiting
            return
        submitted, state.submitted = state.submitted, None
        if submitted is None:
            raise AssertionError(f"{state.name} ended before it was submitted")
        self._share()
        if lost := self.plan.backend.lost(submitted):
            raise Lost(f"{one_line(lost)} Follow it again: {self._resume_command()}")
        run = self._closed(state, str(submitted.run_id))
        if state.is_stopped and run.info.status != "FINISHED":
            self._stop_ended(state, run)
        elif run.info.status == "FINISHED" and records.exit_code(run) == 0:
            self._succeed(state, run)
        elif "transient" in run.data.tags and state.attempts <= state.step.retries:
            self._retry(state, run)
        else:
            self._fail(state, run)

    def _succeed(self, state: StepState, run: Run) -> None:
        step, decision = state.step, reuse.final_decision(self.store, self.memory, _decision(state), run)
        if decision != state.decision:
            reuse.record(self.store, str(run.info.run_id), decision)
            run = self.store.get_run(run.info.run_id)
        state.phase = Phase.done
        state.release()
        self._producers |= dict.fromkeys(step.outputs, run)
        reason = "" if decision.reason in OBVIOUS else str(decision)
        summary = run.data.tags.get("summary", "")
        self._tell(StepEnded(step.step_name, "done", run_page.duration_s(run), summary, reason))
        self._headline(step, run)

    def _retry(self, state: StepState, run: Run) -> None:
        step, delay_s = state.step, BACKOFF_S * 2 ** (state.attempts - 1)
        again = f"again in {delay_s:g} s, try {state.attempts + 1} of {step.retries + 1}"
        self._tell(
            StepEnded(
                step.step_name, "failed", run_page.duration_s(run), run.data.tags.get("cause", ""), next_try=again
            )
        )
        self._pause(state, delay_s)

    def _fail(self, state: StepState, run: Run) -> None:
        state.phase = Phase.failed
        state.release()
        state.exit_code = records.exit_code(run) or StepFailed.exit_code
        self._tell(StepEnded(state.step.step_name, "failed", run_page.duration_s(run), run.data.tags.get("cause", "")))
        self.store.client.set_tag(self.run_id, "failed_step", state.name)
        if self.plan.config.fail_fast:
            self._stop_siblings()
        self._headline(state.step, run)

    def _stop_siblings(self) -> None:
        """Stop the other running steps after a step has failed. `_take_in` records the end of each."""
        for state in self.scheduler.running:
            state.is_stopped = True
            stop = Thread(target=self.plan.backend.stop, args=(state.submitted,), name=f"stop-{state.name}")
            stop.daemon = True
            stop.start()

    def _stop_ended(self, state: StepState, run: Run) -> None:
        """Record the end of a step that was stopped because another step failed."""
        failed = min(other.name for other in self.scheduler.in_phase(Phase.failed))
        self._skip(state, failed, "stopped")
        state.release()
        cause = f"stopped because {self.plan.config.steps[failed].step_name} failed"
        self.store.close(run.info.run_id, "KILLED", {"cause": cause})

    def _closed(self, state: StepState, run_id: str) -> Run:
        """Return the run of an ended step. If the step's process did not close the run, close it and set its cause."""
        run = self.store.get_run(run_id)
        if state.is_overdue and run.info.status != "FINISHED":
            state.is_overdue = False
            tags = {"exit_code": str(TimedOut.exit_code), "cause": str(TimedOut(state.step.timeout_s or 0))}
        elif "cause" not in run.data.tags and run.info.status != "FINISHED":
            cause = "its process ended without reporting a result"
            cause = f"waiting for its end failed: {one_line(state.broken)}" if state.broken else cause
            tags = {"exit_code": str(StepFailed.exit_code), "cause": cause}
        else:
            return run
        self.store.close(run_id, "FAILED", {**tags, "transient": "true"})
        return self.store.get_run(run_id)

    def _headline(self, step: Step, run: Run) -> None:
        """Show the step's headline metrics, its verdict and its conclusion on the pipeline run too."""
        self._verdict |= run_page.verdict_tags(run)
        run_page.log_headline(self.store, self.run_id, step, run)

    def _skip(self, state: StepState, failed: str, how: str = "skipped") -> None:
        """Skip a step because another step failed."""
        state.phase, state.blamed = Phase.skipped, failed
        because = f"{how} ({self.plan.config.steps[failed].step_name} failed)"
        self._tell(StepEnded(state.step.step_name, "skipped", None, because))

    def _tell(self, event: StepEnded) -> None:
        self._told.append(event)
        events.report(event)

    @property
    def exit_code(self) -> int:
        """0, or the lowest exit code of a failed step."""
        return self.scheduler.exit_code

    def cancel(self, reason: str) -> None:
        """Stop the steps that are running, and mark their runs as KILLED."""
        running = [state.submitted for state in self.scheduler.running if state.submitted]
        stopping = [Thread(target=self.plan.backend.stop, args=(submitted,)) for submitted in running]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        for submitted in running:
            self.store.close(str(submitted.run_id), "KILLED", {"cause": reason})
        for run in self.store.children(self.run_id):
            if run.info.status == "RUNNING":  # `running` lacks a step if the error came during its submission
                self.store.close(run.info.run_id, "KILLED", {"cause": reason})

    def skip_rest(self) -> None:
        """Report each step that has not started as skipped, because an error outside of steps ends the pipeline run."""
        for state in self.scheduler.in_phase(Phase.waiting, Phase.paused):
            self._tell(StepEnded(state.step.step_name, "skipped", None, "skipped (an error ended the pipeline run)"))

    def close(self) -> None:
        """End the parent run as FINISHED or FAILED, make the report, and print how the pipeline run ended."""
        code, scheduler = self.exit_code, self.scheduler
        note = run_page.description_of(self.plan.config, self.plan.backend.name, map(str, self._told))
        tags = {"exit_code": str(code), "mlflow.note.content": note, **self._verdict}
        if any(state.exit_code == QaRefused.exit_code for state in scheduler.in_phase(Phase.failed)):
            tags["verdict"] = "refused"
        tags |= {f"{records.SKIPPED}{state.name}": state.blamed for state in scheduler.in_phase(Phase.skipped)}
        self.store.close(self.run_id, "FAILED" if code else "FINISHED", tags)
        look = tuple(filter(None, [self._report(), self._page()]))
        seconds, conclusion = time.monotonic() - self._started, self._verdict.get("conclusion", "")
        failed = [state.exit_code for state in scheduler.in_phase(Phase.failed)]
        resume = self._resume_command() if code and records.resuming_can_help(failed) else ""
        events.report(events.PipelineEnded(self.run_id, code, seconds, conclusion, look, resume))

    def _report(self) -> str:
        """Make the report and return the command that shows it. If the report fails, say why and return no command."""
        config = self.plan.config
        if not _publish_report(self.plan, self.store, self.run_id):
            return ""
        run = "" if self._in_own_experiment and "experiment_name=" not in config.overrides else f" {self.run_id}"
        profile = "" if config.profile == "local" else f" --profile {config.profile}"
        return f"ml-pipelines report{run}{profile} --open"

    def _resume_command(self) -> str:
        """Return the command that continues this pipeline run."""
        config = self.plan.config
        return terminal.resume_command(config.profile, self.run_id, config.overrides)

    def _page(self) -> str:
        """Return the address of the pipeline run's page, or a command that shows the page if the store is a file."""
        if address := self.plan.backend.page_address(self.store, self.experiment_id, self.run_id):
            return address
        uri = self.store.uri
        option = "" if uri == paths.sqlite_uri() else f" --backend-store-uri {shlex.quote(uri)}"
        return f"mlflow ui{option}" if self.store.is_sqlite else uri


def _decision(state: StepState) -> Decision:
    """Return why a started step runs. Every started step has such a decision."""
    if state.decision is None:
        raise AssertionError(f"{state.name} was started before it was decided on")
    return state.decision


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
        scoring_model.find(store, plan.config)  # raises if there is no such model
    plan, inputs, source = resuming.choose_inputs(plan, store, experiment, memory)
    if not adopted and plan.resumed and not plan.steps and store.get_run(plan.resumed.run_id).info.status == "FINISHED":
        raise NothingToDo(
            f"Nothing to resume: pipeline run {plan.resumed.run_id} finished all of these steps. "
            "To start a new run, leave --resume out."
        )
    if not adopted and (current := reuse.up_to_date_run(plan, inputs, store, experiment, memory)):
        _publish_missing_report(plan, store, current)
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


def _publish_report(plan: Plan, store: Store, run_id: str) -> bool:
    """Make the report of a pipeline run. If that fails, say why and return False."""
    place = ""
    try:
        from ml_pipelines.report import publishing  # imported after the steps, so that no step waits for it

        place = str(store.get_run(run_id).info.artifact_uri)
        publishing.publish(store, run_id, plan.backend.page_address)
    except (Exception, Interrupted) as error:  # no error of the report may change the run's result
        reason = one_line(shortage.explain(error, place=place) or error)
        events.report(events.Notice(f"There is no report: {reason}"))
        return False
    return True


def _publish_missing_report(plan: Plan, store: Store, run_id: str) -> None:
    """Make the report of a finished pipeline run if it has none, for example because the disk was full."""
    tags = store.get_run(run_id).data.tags
    is_missing = records.REPORT not in tags or store.artifact_digest(run_id, tags[records.REPORT]) is None
    if is_missing and _publish_report(plan, store, run_id):
        events.report(events.Notice(f"Pipeline run {run_id[:8]} had no report. It has one now."))


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
