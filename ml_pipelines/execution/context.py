"""The StepContext of a real run: it logs to MLflow, uses the registry, and reads and writes Delta tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ml_pipelines.authoring.context import HeadlineOf, MayReplace, ScoringModel, Version
from ml_pipelines.data import artifacts
from ml_pipelines.data.features import Recipe
from ml_pipelines.data.origin import origin_of
from ml_pipelines.errors import BadData, ConfigError
from ml_pipelines.execution import scoring
from ml_pipelines.execution.data_context import DataContext
from ml_pipelines.models import identity, model_files, registry, scoring_model
from ml_pipelines.problems.problem import problem_of, text_of
from ml_pipelines.tracking import lineage, provenance

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

P = TypeVar("P")
JUDGED_ROWS, JUDGED_MODEL = "judged.rows", "judged.model"  # tags of the gate's run: which model, on which test rows
MOST_COUNTED = 10_000  # the most runs that the gate counts


class TrackedContext(DataContext[P]):
    """The context of one step run. After the step has ended, step_run.py uses `tags` and `refusal` too."""

    # -- results

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params that the step chose itself. The step's params from conf/ are logged before the step starts."""
        self._store.log_params(self.run_id, params)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log numbers as metrics of the step's run."""
        self._store.log_metrics(self.run_id, metrics)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a matplotlib figure as the artifact `name` (.png or .svg)."""
        self._store.client.log_figure(self.run_id, figure, name, save_kwargs={"dpi": 100})

    def log_json(self, content: Any, name: str) -> None:
        """Log `content` as the JSON artifact `name`."""
        self._store.log_json(self.run_id, content, name)

    def log_table(self, frame: pl.DataFrame, name: str) -> None:
        """Log a table as `name`: .parquet for any size, or .json for a small table that MLflow's page shows."""
        self._store.log_table(self.run_id, frame, name)
        self._tags[f"{lineage.ARTIFACT}{name}"] = self._store.artifact_digest(self.run_id, name) or "missing"

    def log_model(
        self,
        model: Any,
        example: pl.DataFrame,
        threshold: float,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> str:
        """Log a fitted estimator, with the record of how the columns of the training table were made; return its URI.

        A score of at least `threshold` counts as class 1. `ranges` are number column -> smallest and largest value.
        """
        decisions: dict[str, Any] = next(filter(None, map(self._decisions, self._tables)), {})
        classes = {name: number for number, name in enumerate(origin_of(decisions or None, self.data).classes)}
        facts = {"label": classes, **decisions, "ranges": dict(ranges or {}), "threshold": threshold}
        logged = model_files.log_model(model, example, self._config.model.trusted_types, facts)
        self._tags |= {
            "output.model_uri.digest": logged.digest,
            "output.model_uri.facts": str(logged.facts_digest),
        }
        return logged.uri

    def load_model(self, train_run_id: str) -> Any:
        """Return the estimator that a train run logged.

        Raises:
            BadData: the model's file has changed since the train run.
        """
        return model_files.load_model(self._logged(train_run_id), self._config.model.trusted_types)

    def load_threshold(self, train_run_id: str) -> float:
        """Return the threshold of the model that a train run logged.

        Raises:
            BadData: an earlier release logged the model, or its files have changed since the train run.
        """
        return float(model_files.load_facts(self._logged(train_run_id))["threshold"])

    def _logged(self, train_run_id: str) -> lineage.LoggedModel:
        logged = lineage.model_of_train_run(self._store, train_run_id)
        if version := self._versions.get(train_run_id):
            registry.check_digest(version, logged)
        return logged

    def has_signature(self, train_run_id: str) -> bool:
        """Return whether the model that a train run logged has a signature, which names the input columns."""
        return model_files.has_signature(self._logged(train_run_id))

    def load_table(self, run_id: str, name: str) -> pl.DataFrame:
        """Return a table that a step's run logged with `log_table`."""
        return self._store.load_table(run_id, name)

    def load_metrics(self, run_id: str) -> Mapping[str, float]:
        """Return the metrics that a step's run logged."""
        return dict(self._store.get_run(run_id).data.metrics)

    def scoring_model(self) -> ScoringModel:
        """Return the model that `score.model` names, with a copy of its file that all workers of the engine can read.

        Raises:
            ConfigError: there is no such model, or the workers share no folder with this process.
            BadData: the model's file has changed since the train run, or its types are not trusted.
        """
        model = self._model_for_scoring(scoring_model.SETTING)
        self._tags |= {
            "model_name": model.version.name,
            "model_version": str(model.version.version),
            "train_run_id": model.version.run_id,
        }
        return model

    def shadow_model(self) -> ScoringModel | None:
        """Return the model that `score.shadow` names, or None. It raises the same errors as `scoring_model`."""
        if self._config.score.shadow is None:
            return None
        model = self._model_for_scoring(scoring_model.SHADOW)
        self._tags["shadow_version"] = str(model.version.version)
        return model

    def _model_for_scoring(self, setting: str) -> ScoringModel:
        """Return the model that a setting of `score` names, with a copy of its file for the workers."""
        version = scoring_model.find(self._store, self._config, setting)
        logged, trusted = scoring_model.logged_model(self._store, version), self._config.model.trusted_types
        facts = model_files.load_facts(logged)
        content = model_files.read_model_file(logged)
        estimator = model_files.parse_model(content, logged, trusted)
        name = f"{setting}-{logged.digest[:16]}.skops"  # a session of Spark Connect can't send two files of one name
        file = self._hand_out(content, name)
        if not (recipe := Recipe.from_json(facts)):
            raise BadData(
                f"score.{setting}: {scoring_model.name_of(version)} was trained on a table that no prepare_data wrote. "
                "Run the pipeline train."
            )
        return ScoringModel(
            version,
            estimator,
            file,
            logged.digest,
            [*model_files.TRUSTED, *trusted],
            recipe,
            float(facts["threshold"]),
            scoring.test_scores(self._store, version),
        )

    def _hand_out(self, content: bytes, name: str) -> str:
        """Make a file readable for all workers. Return its path, or only its name if Spark has sent it to them."""
        if self._config.spark.engine.startswith("sc://") and artifacts.send_file(self.spark, content, name):
            return name
        self._copies = self._place_for_copies()
        if "://" in self._copies:
            raise ConfigError(
                f"data.delta_prefix: the Python workers of spark.engine={self._config.spark.engine} read the model "
                "from a folder below this prefix, and can't read it from a URI. Use a folder that all of them see, "
                "such as a Volume."
            )
        file = Path(self._copies, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return str(file)

    # -- the registry

    def count_models(self, train_run_id: str, rows: str) -> int:
        """Return how many models of this experiment were judged on some test rows, with this one.

        A digest identifies the rows. The count needs one search: each gate tags its run with the digest and the model.
        """
        self._store.set_tags(self.run_id, {JUDGED_ROWS: rows, JUDGED_MODEL: train_run_id})
        query = f"tags.`{JUDGED_ROWS}` = '{rows}'"
        runs = self._store.client.search_runs([self._experiment_id], query, max_results=MOST_COUNTED)
        return len({train_run_id, *(run.data.tags[JUDGED_MODEL] for run in runs if JUDGED_MODEL in run.data.tags)})

    def champion(self) -> Version | None:
        """Return the version with the alias champion, or None. The step's conf must have `external: [champion]`.

        A champion whose files are lost does not count.
        Its tags hold the identity of its split and its label, even if an earlier release registered it.
        """
        champion = registry.current_champion(self._store, self._config)
        if champion is None or registry.is_lost(self._store, champion):
            return None
        self._judged_against = str(champion.version)
        self._versions[champion.run_id] = champion
        return champion._replace(tags={**champion.tags, **identity.of_version(self._store, champion)})

    def register(
        self,
        train_run_id: str,
        verdict: str,
        metric: tuple[str, float],
        headline_of: HeadlineOf,
        may_replace: MayReplace,
        tables: Mapping[str, str],
        undecided: Sequence[str] = (),
    ) -> None:
        """Register the model of a train run as the challenger. If it passed and may replace the champion, it does.

        Args:
            train_run_id: the train run. Its model is registered only once, even if this method is called again.
            verdict: only a model with the verdict `passed` can become the champion.
            metric: the headline metric and its value for this model on the test table.
            headline_of: takes a version, and returns its headline metric on rows that no compared model has seen, or
                None if it can't be compared.
            may_replace: takes two versions, and returns whether the first may replace the second as champion.
            tables: `train` and `test` -> the URI of the table, for the tags of the version.
            undecided: the checks that keep the model from becoming champion, for the pipeline run's last line.
        """
        tags = {"pipeline_run_id": self.pipeline_run_id, "train_run_id": train_run_id, "verdict": verdict}
        tags |= {registry.JUDGED: self._judged_against}
        tags |= {f"test_{metric[0]}": str(metric[1]), **provenance.commit_tags(), **self.identity(tables["train"])}
        for name, table in {name: self._recorded(uri) for name, uri in tables.items()}.items():
            tags |= {f"{name}_uri": table.uri, f"{name}_version": str(table.version)}
            tags |= {f"{name}_digest": table.digest} if table.digest else {}
        logged = self._logged(train_run_id)
        tags |= registry.digest_tags(logged)
        challenger = registry.register_version(self._store, self._config, logged.uri, train_run_id, tags)

        problem = problem_of(self.origin(tables["train"]).problem)

        def value_of(version: Version) -> str:
            self._versions[version.run_id] = version
            value = headline_of(version)
            return "" if value is None else text_of(problem, metric[0], value)

        def may(version: Version, champion: Version) -> bool:
            self._versions |= {version.run_id: version, champion.run_id: champion}
            return may_replace(version, champion)

        before, now = registry.promote_best(self._store, self._config, challenger, may)
        conclusion = registry.champion_summary(self._store, challenger, before, now, value_of)
        self._tags["conclusion"] = conclusion + (f"; undecided: {', '.join(undecided)}" if undecided else "")
        self._tags["external.champion"] = registry.champion_identity(self._store, self._config)

    # -- tags, summary, refusal

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the step's run when the run ends. The pipeline run gets the tag `verdict` too."""
        self._tags |= tags

    def summary(self, text: str) -> None:
        """Set the step's result in a few words, for the terminal and for the description on MLflow's page."""
        self._tags |= {"summary": text, "mlflow.note.content": text}

    def refuse(self, reason: str) -> None:
        """Refuse the model: this step finishes, the pipeline run fails, and the steps after this one are skipped."""
        self.refusal = reason

    def tags(self) -> Mapping[str, str]:
        """Return the tags that the step and its outputs have set so far."""
        return dict(self._tags)
