"""A pipeline run in progress: which steps can start, how each ends, and the end of the whole run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from queue import Queue
from threading import Thread, Timer
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Step
from ml_pipelines.errors import QaRefused, StepFailed, TimedOut, one_line
from ml_pipelines.planning import resuming, reuse
from ml_pipelines.planning.backend import SubmittedStep
from ml_pipelines.planning.memory import Memory
from ml_pipelines.planning.plan import Plan
from ml_pipelines.planning.reasons import Decision, Reason
from ml_pipelines.running import reporting, twins
from ml_pipelines.running.scheduler import Phase, Scheduler, StepState
from ml_pipelines.system import events, paths, processes
from ml_pipelines.system.events import StepEnded
from ml_pipelines.tracking import lineage, records, run_page
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
        state.cause = run.data.tags.get("cause", "")
        self._tell(StepEnded(state.step.step_name, "failed", run_page.duration_s(run), state.cause))
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
        failures = [(state.exit_code, state.cause) for state in scheduler.in_phase(Phase.failed)]
        resume = self._resume_command(failures) if code else ""
        events.report(events.PipelineEnded(self.run_id, code, seconds, conclusion, look, resume))

    def _report(self) -> str:
        """Make the report and return the command that shows it. If the report fails, say why and return no command."""
        config = self.plan.config
        if not reporting.publish(self.plan, self.store, self.run_id):
            return ""
        run = "" if self._in_own_experiment and "experiment_name=" not in config.overrides else f" {self.run_id}"
        profile = "" if config.profile == "local" else f" --profile {config.profile}"
        return f"ml-pipelines report{run}{profile} --open"

    def _resume_command(self, failures: Iterable[tuple[int, str]] = ()) -> str:
        """Return the command that continues this pipeline run, or "" if that can't help after these failures."""
        config = self.plan.config
        return resuming.resume_command(config.profile, self.run_id, config.overrides, failures)

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
