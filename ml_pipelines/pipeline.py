"""One pipeline run: the parent MLflow run, the steps below it as they become ready, and its true status at the end."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter
from queue import Queue
from threading import Thread, Timer
from typing import TYPE_CHECKING

from ml_pipelines import (
    backends,
    fingerprint,
    forking,
    lineage,
    paths,
    processes,
    reuse,
    run_page,
    sources,
    terminal,
    tracking,
)
from ml_pipelines.config import SourceKind, Step
from ml_pipelines.databricks import jobs, projects
from ml_pipelines.errors import ConfigError, Interrupted, NothingToDo, QaRefused, StepFailed, TimedOut, one_line
from ml_pipelines.plan import DATABRICKS, DATABRICKS_JOBS, Decision, Plan, Reason
from ml_pipelines.terminal import say, step_line

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.projects import SubmittedRun

BACKOFF_S = 1.0  # before the second try; twice as long before each further one


class Lost(StepFailed):
    """Nobody here knows how a step ended that goes on elsewhere; its runs stay as they are, to be taken up again."""


class PipelineRun:
    """A pipeline run under way: hands out steps whose inputs are there, and takes in what they hand on."""

    def __init__(self, plan: Plan, run: Run, inputs: Mapping[str, Run], resumed: str | None = None) -> None:
        self.plan = plan
        self.resumed = resumed  # the pipeline run that this one goes on from
        self.run_id = str(run.info.run_id)
        self.experiment_id = str(run.info.experiment_id)
        self._producers = dict(inputs)  # output -> the run that handed it on
        names = {key: plan.config.steps[key].outputs for key in plan.kept}
        self.kept = {key: inputs[name].info.run_id for key in names for name in names[key] if name in inputs}
        self._decisions: dict[str, Decision] = {}
        self._running: dict[str, SubmittedRun] = {}
        self._ended: Queue[str] = Queue()  # steps whose process has ended, or whose next try is due
        self._tries: dict[str, int] = {}  # step -> how often it was started
        self._waiting: set[str] = set()  # steps that will be tried again
        self._overdue: set[str] = set()  # steps that were stopped since their time was over
        self._stopped: set[str] = set()  # steps that were stopped since another failed
        self._causes: dict[str, int] = {}  # failed step -> exit code
        self._skipped: dict[str, str] = {}  # skipped step -> the failed step that it is skipped for
        self._lines: list[str] = []
        self._verdict: dict[str, str] = {}  # tags of a step that the pipeline run bears too
        self._started = time.monotonic()

    def schedule(self) -> Iterator[Step]:
        """Yield each step as soon as its inputs are there; a step whose inputs will never be is skipped."""
        steps = {step.key: step for step in self.plan.steps}
        sorter = TopologicalSorter(self.plan.needs)
        sorter.prepare()
        ready: list[str] = []
        while sorter.is_active():
            ready += sorted(sorter.get_ready(), key=list(steps).index)
            while ready and len(self._running) < self.plan.config.max_parallel:
                step = steps[ready.pop(0)]
                if lost := self._barred_by(step):
                    self._skip(step, lost)
                    sorter.done(step.key)
                elif self._taken(step):
                    sorter.done(step.key)
                elif left := self._left_going(step):
                    self.started(step, left)
                else:
                    yield step
            if self._running or self._waiting:
                key = self._ended.get()
                if key in self._waiting:
                    self._waiting.remove(key)
                    ready.append(key)
                else:
                    submitted = self._running.pop(key)
                    self._share()
                    if self._finish(steps[key], submitted):
                        sorter.done(key)

    def _barred_by(self, step: Step) -> list[str]:
        """Return the steps whose end without outputs keeps this one from running."""
        failed = [*self._causes, *self._skipped]
        return failed if self.plan.config.fail_fast else [key for key in failed if key in self.plan.needs[step.key]]

    def parameters(self, step: Step) -> dict[str, str]:
        """Return the entry point's parameters, its inputs among them."""
        outputs = {name: lineage.outputs(run)[name] for name, run in self._producers.items()}
        return self.plan.parameters(step, outputs)

    def started(self, step: Step, submitted: SubmittedRun) -> None:
        """Take note of a step that was handed to its backend."""
        if self.plan.backend == DATABRICKS:  # whose own waiting never ends where a run is skipped
            submitted = jobs.followed(step, submitted)
        self._running[step.key] = submitted
        self._tries[step.key] = tries = self._tries.get(step.key, 0) + 1
        tags = reuse.tags(self._decisions[step.key]) | ({"attempt": str(tries)} if tries > 1 else {})
        tracking.set_tags(str(submitted.run_id), tags)
        self._share()

        def stop() -> None:
            self._overdue.add(step.key)
            backends.stop(submitted)

        def wait() -> None:
            limit = Timer((step.timeout_s or 0) + forking.GRACE_S, stop)  # the step itself has had its chance
            limit.daemon = True
            if step.timeout_s and self.plan.backend in backends.PROCESSES:
                limit.start()
            submitted.wait()
            limit.cancel()
            self._ended.put(step.key)

        Thread(target=wait, daemon=True, name=f"wait-{step.key}").start()

    def _share(self) -> None:
        """Divide the processors among the steps that run now."""
        for submitted in self._running.values():
            if isinstance(submitted, backends.ForkedRun):
                submitted.share(len(self._running))

    def _left_going(self, step: Step) -> SubmittedRun | None:
        """Take over the step where it goes on elsewhere: the driver of the pipeline run that is resumed was killed."""
        run = jobs.left_going(self.resumed, step) if self.resumed else None
        if run is None:
            return None
        tracking.set_tags(run.info.run_id, {tracking.PARENT: self.run_id})
        say(f"    {step.key} | taken over from pipeline run {str(self.resumed)[:8]}, whose driver is gone")
        return jobs.reattach(self.plan.config, step, self.parameters(step), run)

    def _taken(self, step: Step) -> bool:
        """Take a finished run for the step where nothing it depends on has changed; return whether there was one."""
        decision = reuse.decide(self.plan, step, self._producers, self.experiment_id)
        self._decisions[step.key] = decision
        if decision.run is None:
            return False
        run = lineage.take(decision.run, self.run_id, step.step_name, reuse.tags(decision))
        self._producers |= dict.fromkeys(step.outputs, run)
        self._line("taken", step, None, f"reused ({decision}) · {run.data.tags.get('summary', '')}")
        self._headline(step, run)
        return True

    def _finish(self, step: Step, submitted: SubmittedRun) -> bool:
        """Read the step's run: its outputs, or why there are none; return False where it will be tried again."""
        if lost := getattr(submitted, "lost", None):  # it goes on there
            raise Lost(f"{one_line(lost)} Follow it again: {self._again()}")
        run = self._closed(step, str(submitted.run_id))
        if step.key in self._stopped and run.info.status != "FINISHED":
            self._skip(step, list(self._causes), "stopped")
            failed = self.plan.config.steps[self._skipped[step.key]].step_name
            tracking.close(run.info.run_id, "KILLED", {"cause": f"stopped, since {failed} failed"})
            return True
        tags, seconds = run.data.tags, run_page.seconds(run)
        code = int(tags.get("exit_code", StepFailed.exit_code))
        if run.info.status == "FINISHED" and code == 0:
            decision = reuse.settled(self._decisions[step.key], run)
            if decision != self._decisions[step.key]:
                tracking.set_tags(run.info.run_id, reuse.tags(decision))
                run = tracking.get_run(run.info.run_id)
            self._producers |= dict.fromkeys(step.outputs, run)
            why = "" if decision.reason in (Reason.first_run, Reason.off, Reason.elsewhere) else f" · ran: {decision}"
            self._line("done", step, seconds, tags.get("summary", "") + why)
        elif "transient" in tags and self._tries[step.key] <= step.retries:
            delay_s = BACKOFF_S * 2 ** (self._tries[step.key] - 1)
            again = f" · again in {delay_s:g} s, try {self._tries[step.key] + 1} of {step.retries + 1}"
            self._line("failed", step, seconds, tags["cause"] + again)
            self._waiting.add(step.key)
            timer = Timer(delay_s, self._ended.put, (step.key,))
            timer.daemon = True
            timer.start()
            return False
        else:
            self._causes[step.key] = code or StepFailed.exit_code
            self._line("failed", step, seconds, tags["cause"])
            tracking.client().set_tag(self.run_id, "failed_step", step.key)
            if self.plan.config.fail_fast:
                self._stop_siblings()
        self._headline(step, run)
        return True

    def _stop_siblings(self) -> None:
        """Stop the steps that run beside one that failed; each is taken in when it has ended."""
        for key, submitted in self._running.items():
            self._stopped.add(key)
            Thread(target=backends.stop, args=(submitted,), daemon=True, name=f"stop-{key}").start()

    def _closed(self, step: Step, run_id: str) -> Run:
        """Return the run of a step that has ended, closed and with its cause where its process could not do that."""
        run = tracking.get_run(run_id)
        if step.key in self._overdue and run.info.status != "FINISHED":
            self._overdue.remove(step.key)
            tags = {"exit_code": str(TimedOut.exit_code), "cause": str(TimedOut(step.timeout_s or 0))}
        elif "cause" not in run.data.tags and run.info.status != "FINISHED":
            tags = {"exit_code": str(StepFailed.exit_code), "cause": "its process ended without a word"}
        else:
            return run
        tracking.close(run_id, "FAILED", {**tags, "transient": "true"})
        return tracking.get_run(run_id)

    def _headline(self, step: Step, run: Run) -> None:
        """Show the step's headline metrics on the pipeline run too, its verdict, and what it concludes."""
        self._verdict |= run_page.verdict(run)
        run_page.headline(self.run_id, step, run)

    def _skip(self, step: Step, lost: list[str], how: str = "skipped") -> None:
        """Leave out a step whose inputs will never be there, naming the failure at the root of it."""
        root = min(self._skipped.get(need, need) for need in lost)
        self._skipped[step.key] = root
        self._line("skipped", step, None, f"{how} ({self.plan.config.steps[root].step_name} failed)")

    def _line(self, mark: str, step: Step, seconds: float | None, text: str) -> None:
        line = step_line(mark, step.step_name, seconds, text)
        self._lines.append(line)
        say(line)

    @property
    def exit_code(self) -> int:
        """0, or the lowest exit code that is a cause."""
        return min(self._causes.values(), default=0)

    def cancel(self, reason: str) -> None:
        """Stop the steps that are running, and mark their runs KILLED."""
        stopping = [Thread(target=backends.stop, args=(submitted,)) for submitted in self._running.values()]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        for submitted in self._running.values():
            tracking.close(str(submitted.run_id), "KILLED", {"cause": reason})
        for run in tracking.children(self.run_id):
            if run.info.status == "RUNNING":  # it was just being submitted
                tracking.close(run.info.run_id, "KILLED", {"cause": reason})

    def close(self) -> None:
        """End the parent with its true status, and say what came out."""
        code = self.exit_code
        tags = {
            "exit_code": str(code),
            "mlflow.note.content": run_page.note(self.plan.config, self.plan.backend, self._lines),
        }
        tags |= self._verdict
        tags |= {"verdict": "refused"} if QaRefused.exit_code in self._causes.values() else {}
        tags |= {"skipped": json.dumps(self._skipped)} if self._skipped else {}
        tracking.close(self.run_id, "FAILED" if code else "FINISHED", tags)
        report = self._report()
        took = f"{time.monotonic() - self._started:.1f} s"
        if code:
            where = "logs and tracebacks are artifacts of the failed step's run"
            said = [took, f"failed, exit code {code}", where]
        else:
            said = [took, self._verdict.get("conclusion", ""), f"pipeline run {self.run_id}"]
        say(" · ".join(filter(None, said)))
        say(f"Look at it: {' · '.join(filter(None, [report, self._page()]))}")
        if code:
            say(f"Go on with: {self._again()}")

    def _report(self) -> str:
        """Make the report, and return the command that shows it; nothing, and say why, where there is none."""
        config = self.plan.config
        try:
            from ml_pipelines import report  # after the steps: nobody waits for it before

            report.publish(self.run_id)
            own = tracking.client().get_experiment(self.experiment_id).name == config.experiment_name
        except (Exception, Interrupted) as error:  # whatever it is, the pipeline run has ended as it has
            say(f"There is no report: {one_line(error)}")
            return ""
        run = "" if own and "experiment_name=" not in config.overrides else f" {self.run_id}"
        profile = "" if config.profile == "local" else f" --profile {config.profile}"
        return f"ml-pipelines report{run}{profile} --open"

    def _again(self) -> str:
        """Return the command that goes on from this run."""
        config = self.plan.config
        return terminal.resume_command(config.profile, self.run_id, config.overrides)

    def _page(self) -> str:
        """Return what shows the run: a command for a store that is a file, else an address."""
        if address := tracking.address(self.experiment_id, self.run_id):
            return address
        uri = os.environ["MLFLOW_TRACKING_URI"]
        store = "" if uri == paths.sqlite_uri() else f" --backend-store-uri {shlex.quote(uri)}"
        return f"mlflow ui{store}" if uri.startswith("sqlite") else uri


@contextmanager
def pipeline_run(plan: Plan, resume: str | None = None) -> Iterator[PipelineRun]:
    """Open the parent run: the one that MLflow made for `mlflow run -e main`, else a new one; and close it.

    Raises:
        ConfigError, BadData: something that could be known before a run is created.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    fingerprint.forget()
    adopted = os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    preflight(plan)
    tracking.connect(plan.config)
    if adopted:
        tracking.set_tags(adopted, tracking.provenance())
        run = tracking.get_run(adopted)
        experiment = str(run.info.experiment_id)
        _say_whose(plan, experiment)
    else:
        experiment = tracking.experiment_id(plan.config.experiment_name)
    paths.check_writable(tracking.client().get_experiment(experiment).artifact_location, "the experiment's artifacts")
    tracking.reap(experiment)
    plan, inputs, source = _resumed(plan, experiment, resume)
    if not adopted and (current := reuse.current(plan, inputs, experiment)):
        raise NothingToDo(f"Nothing has changed: pipeline run {current} is current (--force runs it all again).")
    tags = None if adopted else dict(tracking.provenance())
    parent = None
    try:
        run = mlflow.start_run(run_id=adopted, experiment_id=experiment, run_name=tracking.PROJECT_RUN, tags=tags)
        parent = PipelineRun(plan, run, inputs, source if resume else None)
        _describe(parent, source)
        yield parent
        parent.close()
    except Lost as error:  # what goes on there stays RUNNING, for --resume to take over
        with suppress(MlflowException, OSError):
            tracking.close(
                str(run.info.run_id), "FAILED", {"cause": one_line(error), "exit_code": str(error.exit_code)}
            )
        raise
    except BaseException as error:
        failure: BaseException = error
        if isinstance(error, MlflowException | OSError):
            failure = projects.explained(error) or tracking.failed(error)
        with suppress(MlflowException, OSError):  # a store that is gone: the next start will find the runs
            if parent:
                parent.cancel(one_line(failure))
                status = "KILLED" if isinstance(error, Interrupted) else "FAILED"
                tracking.close(parent.run_id, status, {"cause": one_line(failure)})
            processes.close_own(tracking.client(), experiment, one_line(failure))
        if failure is error:
            raise
        raise failure from error
    finally:
        with suppress(MlflowException, OSError):
            mlflow.end_run(tracking.get_run(parent.run_id).info.status if parent else "KILLED")


def preflight(plan: Plan) -> None:
    """Check, before a run is created, what can be known before.

    Raises:
        ConfigError, BadData: with the one line that says what to do.
    """
    if plan.backend not in backends.AVAILABLE:
        raise ConfigError(
            f"There is no backend {plan.backend}: there are {', '.join(backends.AVAILABLE)} (docs/running.md)."
        )
    config = plan.config
    paths.table_path(config.table_prefix, [], "step", "run", "table")
    if plan.backend in (DATABRICKS, DATABRICKS_JOBS):
        from ml_pipelines.databricks import preflight as remote

        remote.check_plan(plan)
    elif any(not step.inputs for step in plan.steps):
        if config.data.source.kind is SourceKind.file:
            sources.file_format(config.data.source)
        if config.spark.engine != "databricks":
            paths.check_writable(paths.absolute(config.table_prefix), "data.delta_prefix.local")


def _say_whose(plan: Plan, experiment: str) -> None:
    """Say that the caller's store and experiment win: MLflow had made the run in them before our code ran."""
    name = tracking.client().get_experiment(experiment).name
    if name != plan.config.experiment_name:
        say(f"`mlflow run` chose experiment {name!r}; the profile's is {plan.config.experiment_name!r}.")


def _resumed(plan: Plan, experiment: str, resume: str | None) -> tuple[Plan, dict[str, Run], str | None]:
    """Return the plan without the steps that `resume` has finished, the inputs taken from it, and its id."""
    if resume is None and not plan.missing:
        return plan, {}, None
    if resume is None:
        source = lineage.latest_with(plan.missing, experiment, plan.config.profile)
    else:
        source = lineage.find_pipeline_run(resume, experiment)
    found = lineage.producers(source)
    if resume is not None:
        plan = plan.without_finished(found)
    if lost := plan.missing - found.keys():
        raise ConfigError(f"Pipeline run {source} has no {', '.join(sorted(lost))}. Run the whole pipeline once.")
    needed = plan.missing | {name for key in plan.kept for name in plan.config.steps[key].outputs}
    return plan, {name: run for name, run in found.items() if name in needed}, source


def _describe(parent: PipelineRun, source: str | None) -> None:
    """Tag the parent with what is run how, and say it."""
    plan, config = parent.plan, parent.plan.config
    more = {"inputs_from": source, "kept": json.dumps(parent.kept)} if source else {}
    run_page.describe(parent.run_id, config, plan.backend, {**processes.identity(), **more})
    how = f"{config.profile} · {config.spark.engine} · {plan.backend} · {config.experiment_name}"
    say(f"{tracking.PROJECT_RUN} {parent.run_id[:8]} · {how}")
    if source:
        say(f"  = {', '.join(sorted(plan.missing)) or 'everything'} taken from pipeline run {source[:8]}")
