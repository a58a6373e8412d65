"""Tests of model_qa: the declared checks, their report, and the effect of the verdict."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from recording import IDENTITY, RecordingContext

from ml_pipelines.checks import facts
from ml_pipelines.config.loading import load
from ml_pipelines.errors import BadData
from ml_pipelines.modelling.split import Split
from ml_pipelines.models.registry import Version
from ml_pipelines.problems.roc_auc import area
from steps import model_qa

ROWS = 600


class Echo:
    """A fitted model whose probability of class 1 is one of its columns."""

    feature_names_in_ = ("chance", "noisy", "kind")

    def __init__(self, column: str = "chance") -> None:
        self.column = column

    def predict_proba(self, features: pl.DataFrame) -> Any:
        return features.select(1 - pl.col(self.column), pl.col(self.column).alias("score")).to_numpy()


def table(seed: int) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    chance = draw.random(ROWS)
    return pl.DataFrame(
        {
            "id": range(ROWS),
            "chance": chance,
            "noisy": np.clip(chance + draw.normal(size=ROWS) * 0.3, 0, 1),
            "kind": draw.choice(["a", "b"], ROWS),
            "label": (draw.random(ROWS) < chance).astype(int),
        }
    )


TRAIN, TEST = table(1), table(2)
AUC = area(TEST["label"].to_numpy(), TEST["chance"].to_numpy())
IMPORTANCE = pl.DataFrame({"feature": ["chance", "noisy", "kind"], "importance": [0.2, 0.1, 0.0], "std": [0.0] * 3})
FRAMES = {
    "train": TRAIN,
    "test": TEST,
    "e/predictions.parquet": TEST.select("label", score="chance"),
    "i/feature_importance.json": IMPORTANCE,
}
OLD = Version("model", 3, "old", 0, {"train_uri": "older", **IDENTITY})


def predicted(frame: pl.DataFrame) -> pl.DataFrame:
    """Return evaluate's predictions with the predicted class, and any other frame as it is."""
    return frame.with_columns(predicted=(pl.col("score") >= 0.5).cast(int)) if "score" in frame.columns else frame


def run_model_qa(
    *changes: str,
    test_auc: float = AUC,
    frames: dict[str, pl.DataFrame] | None = None,
    champion: Version | None = None,
    old: Any = None,
) -> tuple[RecordingContext, dict[str, Any]]:
    """Run the step with the checks of conf and these overrides, and return its context and report."""
    prefix = "steps.model_qa.params."
    config = load("local", [f"{prefix}{change}".replace(f"{prefix}../", "") for change in changes])
    step = RecordingContext(
        "model_qa",
        config.steps["model_qa"].params,
        {name: predicted(frame) for name, frame in {**FRAMES, "older": table(3), **(frames or {})}.items()},
        {"t": Echo(), "old": old or Echo("noisy")},
        metrics={"t": {"train_auc": 0.9}},
        champion=champion,
        config=config,
    )
    inputs = {"train_uri": "train", "test_uri": "test", "train_run_id": "t", "evaluate_run_id": "e"}
    outputs = model_qa.run(step, **inputs, feature_importance_run_id="i", test_headline=test_auc)  # type: ignore[arg-type]
    assert outputs == {"qa_complete": True, "qa_passed": step.json["qa_report.json"]["verdict"] == "passed"}
    return step, step.json["qa_report.json"]


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    return {check["check"]: check["verdict"] for check in report["checks"]}


def test_a_good_model_passes_and_is_registered() -> None:
    step, report = run_model_qa()
    assert report["verdict"] == "passed"
    assert step.refusal is None
    assert step.summary_text == "passed 7 of 7, 3 not compared"
    assert step.logged_tags == {"verdict": "passed", "failed_checks": "none", "undecided_checks": "none"}
    [registration] = step.registered
    assert registration["metric"] == ("auc", pytest.approx(AUC))
    assert registration["tables"] == {"train": "train", "test": "test"}


def test_a_bad_model_is_refused_with_its_failed_checks_and_not_registered() -> None:
    step, report = run_model_qa("checks.min_auc.threshold=0.99", "checks.single_column.threshold=0.5")
    assert report["verdict"] == "refused"
    assert step.refusal and step.refusal.startswith("min_auc: test auc is 0.")
    assert "another estimator. single_column: auc of chance alone is " in step.refusal
    assert step.summary_text == "passed 5 of 7, 3 not compared"
    assert step.logged_tags["failed_checks"] == "min_auc, single_column"
    assert step.registered == []


def test_an_undecided_model_stays_challenger_and_the_line_says_how_many_rows_would_do() -> None:
    step, report = run_model_qa(f"checks.min_auc.threshold={AUC - 0.01}")
    assert (report["verdict"], step.refusal) == ("undecided", None)
    assert step.logged_tags == {"verdict": "undecided", "failed_checks": "none", "undecided_checks": "min_auc"}
    [registration] = step.registered
    assert (registration["verdict"], registration["undecided"]) == ("undecided", ["min_auc"])
    assert step.summary_text and step.summary_text.startswith(
        "passed 6 of 7, 1 undecided, 3 not compared · undecided: min_auc: test auc is 0."
    )
    assert step.summary_text.endswith(" test rows would be enough")


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        (pl.col("chance"), "passed"),
        (pl.lit(TRAIN["label"].mean()), "failed"),  # the baseline itself
        (pl.col("chance") * 0.0001, "failed"),  # a good order, but no probabilities
        (pl.col("id") % 7 * 0.01 + 0.46, "undecided"),  # noise
    ],
)
def test_a_model_is_compared_with_the_rate_of_the_training_table(scores: pl.Expr, verdict: str) -> None:
    predictions = TEST.select("label", score=scores)
    auc = area(TEST["label"].to_numpy(), predictions["score"].to_numpy())
    _, report = run_model_qa(frames={"e/predictions.parquet": predictions}, test_auc=auc)
    assert verdicts(report)["beats_baseline"] == verdict


def test_a_gap_between_training_and_test_only_warns() -> None:
    step, report = run_model_qa("checks.train_test_gap.threshold=-1")
    assert (report["verdict"], verdicts(report)["train_test_gap"]) == ("passed", "warned")
    assert step.summary_text and step.summary_text.startswith(
        "passed 6 of 7, 1 warned, 3 not compared · warning: train_test_gap: training auc minus test auc is "
    )
    assert step.summary_text.endswith("fewer leaves, steps.train.params.options.max_leaf_nodes=7")


def test_on_failure_warn_registers_a_bad_model_with_a_warning() -> None:
    step, report = run_model_qa("checks.min_auc.threshold=0.99", "on_failure=warn")
    assert (report["verdict"], step.refusal) == ("warned", None)
    assert [entry["verdict"] for entry in step.registered] == ["warned"]


def test_null_turns_a_check_off() -> None:
    _, report = run_model_qa("checks.min_auc=null", "checks.drift=null")
    assert "min_auc" not in verdicts(report)
    assert "drift" not in verdicts(report)


def test_a_configuration_block_turns_a_check_on() -> None:
    _, report = run_model_qa("checks.latency={rows: 3, repeats: 2, threshold: 10000}")
    assert verdicts(report)["latency"] == "passed"


def test_stability_fits_the_model_again_on_resampled_rows() -> None:
    from sklearn.linear_model import LogisticRegression

    areas = refit_areas(LogisticRegression(), ROWS)  # as many rows as the table has, and a model without randomness
    assert areas[0] != areas[1] == areas[2]
    assert all(0.6 < value < 0.9 for value in areas)


def test_stability_draws_all_rows_of_a_key_together() -> None:
    from sklearn.linear_model import LogisticRegression

    fitted: list[pl.DataFrame] = []

    class Recorder(LogisticRegression):
        def fit(self, features: pl.DataFrame, label: Any) -> Any:
            fitted.append(features)
            return super().fit(features, label)

    refit_areas(Recorder(), 300, keys=pl.int_range(ROWS) // 6)
    key_of = dict(zip(TRAIN["chance"], (i // 6 for i in range(ROWS)), strict=True))
    for features in fitted[1:]:  # the first fit is the model's own
        drawn = features.group_by("chance").len().with_columns(key=pl.col("chance").replace_strict(key_of))
        per_key = drawn.group_by("key").agg(pl.len(), pl.col("len").n_unique().alias("counts"))
        assert features.height == 300 and per_key["len"].unique().to_list() == [6]
        assert per_key["counts"].unique().to_list() == [1]


def refit_areas(estimator: Any, rows: int, keys: Any = None) -> list[float]:
    """Return the test AUC of the estimator when the check stability fits it with the seeds 0, 1 and 1."""
    from sklearn.pipeline import Pipeline

    train, test = (frame.drop("kind") for frame in (TRAIN, TEST))
    train = train if keys is None else train.with_columns(id=keys)
    model = Pipeline([("model", estimator)]).fit(train.select("chance", "noisy"), train["label"])
    config = load("local", ["steps.model_qa.params.checks={stability: {seeds: 2, rows: 300, threshold: 0.1}}"])
    step = RecordingContext(
        "model_qa", config.steps["model_qa"].params, {**FRAMES, "train": train, "test": test}, {"t": model}
    )
    facts = model_qa.Facts(step, model_qa.GateInputs("train", "test", "t", "e", "i", AUC), 0.95, [], 1)  # type: ignore[arg-type]
    return [facts.refit(seed, rows) for seed in (0, 1, 1)]


def test_the_report_has_the_auc_with_its_interval_and_the_inputs() -> None:
    _, report = run_model_qa()
    assert report["auc"]["value"] == pytest.approx(AUC)
    assert report["auc"]["low"] < AUC < report["auc"]["high"]
    assert report["judged"]["evaluate_run_id"] == "e"
    assert report["champion"] is None
    assert set(report["checks"][0]) == {"check", "value", "threshold", "verdict", "reason", "advice"}


@pytest.mark.parametrize("test_auc", [float("nan"), float("inf"), AUC + 0.01])
def test_an_auc_that_differs_from_the_predictions_is_refused(test_auc: float) -> None:
    _, report = run_model_qa("checks.min_auc.threshold=0", test_auc=test_auc)
    assert verdicts(report)["min_auc"] == "failed"


def test_the_report_counts_the_models_that_the_test_rows_have_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    step, report = run_model_qa()
    assert (report["models_judged"], report["selection"]) == (1, "")
    monkeypatch.setattr(RecordingContext, "models_before", 9)
    # The same rows, with another feature:
    other = {name: frame.with_columns(more=pl.lit(1.0)) for name, frame in (("train", TRAIN), ("test", TEST))}
    again, report = run_model_qa(frames=other)
    assert report["models_judged"] == 10
    half_width = (report["auc"]["high"] - report["auc"]["low"]) / 2
    # 1.54: the mean of the largest of ten standard normal numbers
    assert f"by up to about 1.5 standard errors ({1.546 * half_width / 1.96:.3f})" in report["selection"]
    assert str(again.summary_text).endswith(" · 10 models were judged on these test rows")
    assert again.judged.keys() == step.judged.keys()
    flipped = pl.Series("label", [1 - TEST["label"][0], *TEST["label"][1:]])
    frames = {"test": TEST.with_columns(flipped), "e/predictions.parquet": TEST.select(flipped, score="chance")}
    assert run_model_qa(frames=frames)[0].judged.keys() != step.judged.keys()


def test_declared_slices_are_reported_and_checked() -> None:
    _, report = run_model_qa("slices=[kind,chance]")
    assert [row["name"] for row in report["slices"]][:2] == ["kind=a", "kind=b"]
    assert len(report["slices"]) == 6
    assert [row["against"] for row in report["slices"]] == ["the column's other slices"] * 2 + [""] * 4
    assert verdicts(report)["worst_slice"] in ("passed", "undecided")  # a quarter's rows are alike by construction


def test_a_slice_is_compared_with_the_champion() -> None:
    _, report = run_model_qa("slices=[kind,chance]", champion=OLD)
    assert [row["against"] for row in report["slices"]] == ["version 3"] * 6
    kind_a = (TEST["kind"] == "a").to_numpy()
    areas = [area(TEST["label"].to_numpy()[kind_a], TEST[name].to_numpy()[kind_a]) for name in ("chance", "noisy")]
    assert report["slices"][0]["difference"]["value"] == pytest.approx(areas[0] - areas[1])
    _, report = run_model_qa("slices=[kind]", champion=old_with(label_name="churned"))
    assert [row["against"] for row in report["slices"]] == ["the column's other slices"] * 2


def test_a_slice_with_halved_probabilities_fails() -> None:
    score = pl.when(pl.col("kind") == "a").then(pl.col("chance") / 2).otherwise(pl.col("chance"))
    halved = TEST.select("label", score=score)
    auc = area(halved["label"].to_numpy(), halved["score"].to_numpy())
    _, report = run_model_qa("slices=[kind]", frames={"e/predictions.parquet": halved}, test_auc=auc)
    assert verdicts(report)["worst_slice"] == "failed"
    assert "times the expected ones" in reason_of(report, "worst_slice")


def test_predictions_of_other_rows_are_refused() -> None:
    with pytest.raises(BadData, match="don't belong to the rows of table"):
        run_model_qa(frames={"test": TEST.reverse()})


def test_the_drift_is_logged_in_full() -> None:
    only_a = {name: frame.with_columns(kind=pl.lit("a")) for name, frame in (("older", table(3)), ("test", TEST))}
    step, report = run_model_qa(champion=OLD, frames=only_a)
    content = step.json["drift.json"]
    assert [row["column"] for row in content["train_test"]] == ["chance", "noisy", "kind"]
    assert [row["column"] for row in content["champion"]] == ["chance", "noisy", "kind"]
    share_of_a = (TRAIN["kind"] == "a").mean()  # from the training table to the test table, and from the older one
    assert share_in_bin(content["train_test"][2], "a") == (pytest.approx(share_of_a), 1)
    assert share_in_bin(content["champion"][2], "a") == (1, pytest.approx(share_of_a))
    assert [row["moved"] for row in content["champion"]] == [[], [], ["values"]]
    assert (content["problem"], content["only_before"], content["only_now"]) == ("", [], [])
    assert reason_of(report, "drift").startswith("1 of 3 columns moved since the champion's training table: kind (psi ")


def reason_of(report: dict[str, Any], name: str) -> str:
    [reason] = [check["reason"] for check in report["checks"] if check["check"] == name]
    return str(reason)


def share_in_bin(row: dict[str, Any], label: str) -> tuple[float, float]:
    [(reference, current)] = [(b["reference"], b["current"]) for b in row["bins"] if b["label"] == label]
    return reference, current


def test_the_drift_of_a_large_table_is_measured_on_rows_from_its_whole_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "DRIFT_ROWS", ROWS // 2)
    _, report = run_model_qa("checks.drift.p_value=1", frames={"train": TRAIN.sort("chance")}, champion=OLD)
    assert verdicts(report)["drift"] == "passed"


def test_drift_from_train_to_test_is_not_judged() -> None:
    step, report = run_model_qa(frames={"test": TEST.with_columns(kind=pl.lit("a"))})
    assert verdicts(report)["drift"] == "not compared"
    assert step.json["drift.json"]["problem"] == "the model has no champion yet"
    assert [row["moved"] for row in step.json["drift.json"]["train_test"]] == [[], [], ["values"]]


def test_drift_compares_the_common_columns_with_the_champions_table() -> None:
    older = table(3).rename({"noisy": "income"})
    step, report = run_model_qa(champion=OLD, frames={"older": older.with_columns(pl.col("chance") + 1)})
    content = step.json["drift.json"]
    assert [row["column"] for row in content["champion"]] == ["chance", "kind"]
    assert (content["only_before"], content["only_now"]) == (["income"], ["noisy"])
    assert "only in the champion's table: income; only in this table: noisy" in reason_of(report, "drift")


@pytest.mark.parametrize(
    ("tags", "frames", "reason"),
    [
        ({"train_uri": "train"}, {}, "version 3 has the same training table"),
        (
            {},
            {"older": table(3).select("id", "label", other="kind")},
            "version 3 has no column in common with this one",
        ),
        ({}, {"older": table(3).clear()}, "has no rows"),
    ],
)
def test_drift_is_not_compared_if_the_champions_table_does_not_fit(
    tags: dict[str, str], frames: dict[str, pl.DataFrame], reason: str
) -> None:
    step, report = run_model_qa(champion=old_with(**tags), frames=frames)
    assert verdicts(report)["drift"] == "not compared"
    assert reason in reason_of(report, "drift")
    assert step.json["drift.json"]["champion"] is None


def test_drift_counts_one_row_of_each_key() -> None:
    often = pl.concat([table(seed).head(60) for seed in (4,)] * 10)  # each row ten times
    older = pl.concat([table(3).head(60)] * 10)
    _, report = run_model_qa("checks.drift.p_value=0.2", champion=OLD, frames={"train": often, "older": older})
    assert verdicts(report)["drift"] == "undecided"
    assert "rows in each table would be enough" in reason_of(report, "drift")


def test_a_better_challenger_passes_and_the_report_shows_the_difference() -> None:
    step, report = run_model_qa(champion=OLD)
    assert verdicts(report)["champion"] == "passed"
    champion = report["champion"]
    assert (champion["name"], champion["version"], champion["run_id"]) == ("model", 3, "old")
    assert champion["difference"] == pytest.approx(AUC - champion["auc"])
    assert champion["difference"] > 0
    assert champion["low"] < champion["auc"] < champion["high"]
    assert champion["difference_low"] < champion["difference"] < champion["difference_high"]
    ends = f"{champion['difference_low']:+.3f} to {champion['difference_high']:+.3f}"
    difference = f"auc {champion['difference']:+.3f}, 95% interval {ends}, against version 3"
    assert step.summary_text == f"passed 9 of 9, 1 not compared · {difference}"


def test_rows_of_a_key_count_as_one_sample() -> None:
    def widths(keys: list[str]) -> tuple[float, float]:
        predictions = TEST.select("label", score="chance").with_columns(key=pl.Series(keys))
        _, report = run_model_qa(champion=OLD, frames={"e/predictions.parquet": predictions})
        difference = report["champion"]["difference_high"] - report["champion"]["difference_low"]
        return report["auc"]["high"] - report["auc"]["low"], difference

    alone = widths([str(i) for i in range(ROWS)])
    assert widths([f"{i % 2 * '0'}{i // 2}" for i in range(ROWS)]) != alone  # 0007 and 7 are one key


def old_with(**tags: str) -> Version:
    return OLD._replace(tags={**OLD.tags, **tags})


def test_a_champion_of_another_split_is_judged_on_rows_that_it_has_not_seen() -> None:
    champion = old_with(split_seed="7", split_fraction="0.5")
    unseen = Split("id", 7, 0.5).is_test(TEST["id"])
    step, report = run_model_qa(champion=champion)
    expected = area(TEST["label"].to_numpy()[unseen], TEST["noisy"].to_numpy()[unseen])
    assert (report["champion"]["rows"], report["champion"]["auc"]) == (unseen.sum(), pytest.approx(expected))
    assert f"on the {unseen.sum()} test rows that neither model has seen" in str(step.summary_text)
    [registration] = step.registered
    assert registration["headline_of"](champion) == pytest.approx(expected)
    mine = area(TEST["label"].to_numpy()[unseen], TEST["chance"].to_numpy()[unseen])
    assert registration["headline_of"](Version("model", 4, "t", 0, {})) == pytest.approx(mine)
    rival = Version("model", 5, "rival", 0, {**IDENTITY, "split_seed": "9"})
    assert registration["headline_of"](rival) is None  # it has seen rows on which the champion is judged


@pytest.mark.parametrize("tags", [{"label_0": "1", "label_1": "0"}, {"split_key": "customer"}])
def test_a_champion_that_can_t_be_compared_is_skipped_and_stays(tags: dict[str, str]) -> None:
    step, report = run_model_qa(champion=old_with(**tags))
    assert (report["verdict"], verdicts(report)["champion"]) == ("undecided", "not compared")
    assert step.registered[0]["undecided"] == ["champion"]
    [reason] = [check["reason"] for check in report["checks"] if check["check"] == "champion"]
    assert reason.startswith("not compared with the champion, version 3: its ")
    assert reason.endswith("Only a person can make this model champion (ml-pipelines promote).")
    assert report["champion"]["problem"] in reason and report["champion"]["auc"] is None
    assert "· not compared with version 3: its " in str(step.summary_text)
    assert step.registered[0]["headline_of"](old_with(**tags)) is None


def test_a_champion_is_not_compared_if_a_class_has_one_key() -> None:
    keys = pl.when(pl.col("label") == 1).then(pl.lit("one")).otherwise(pl.int_range(ROWS).cast(pl.String))
    predictions = TEST.select("label", score="chance", key=keys)
    step, report = run_model_qa(champion=OLD, frames={"e/predictions.parquet": predictions})
    assert report["champion"]["problem"] == "all test rows of a class have the same key."
    assert step.registered[0]["headline_of"](OLD) is None


def test_a_test_table_with_few_events_has_no_interval() -> None:
    rows = TEST.with_columns(label=pl.int_range(ROWS).is_in([0, 1]).cast(int))
    auc = area(rows["label"].to_numpy(), rows["chance"].to_numpy())
    frames = {"test": rows, "e/predictions.parquet": rows.select("label", score="chance")}
    step, report = run_model_qa("checks.calibration=null", "slices=[kind]", frames=frames, test_auc=auc, champion=OLD)
    assert (report["auc"]["low"], report["champion"]["difference_low"]) == (None, None)
    assert ["10 are needed" in row["problem"] for row in report["slices"]] == [True, True]
    assert report["verdict"] == verdicts(report)["min_auc"] == verdicts(report)["beats_baseline"] == "undecided"
    assert "too few events for an interval" in report["checks"][1]["reason"]
    assert ", too few events for an interval, against the champion, version 3" in str(step.summary_text)


def test_a_worse_challenger_is_refused() -> None:
    frames = {"e/predictions.parquet": TEST.select("label", score="noisy")}
    auc = area(TEST["label"].to_numpy(), TEST["noisy"].to_numpy())
    off = ("checks.calibration=null", "checks.beats_baseline=null")
    step, report = run_model_qa(*off, champion=OLD, old=Echo(), frames=frames, test_auc=auc)
    assert step.logged_tags["failed_checks"] == "champion"
    assert report["champion"]["p_value"] < 0.05


def judged(scores: pl.Expr, *changes: str, old: str = "chance") -> tuple[RecordingContext, dict[str, Any]]:
    """Judge a model with these scores against a champion that scores by the column `old`."""
    predictions = TEST.select("label", score=scores)
    auc = area(TEST["label"].to_numpy(), predictions["score"].to_numpy())
    frames = {"e/predictions.parquet": predictions}
    off = ("checks.calibration=null", *changes)
    return run_model_qa(*off, champion=OLD, old=Echo(old), frames=frames, test_auc=auc)


def test_a_model_that_may_be_worse_than_the_margin_stays_challenger() -> None:
    similar = pl.col("chance") * 0.96 + pl.col("id") * 7 % 100 * 0.0004
    step, report = judged(similar, "checks.champion.margin=0")
    assert (report["verdict"], step.logged_tags["undecided_checks"]) == ("undecided", "champion")
    assert str(step.summary_text).count("against the champion, version 3") == 1
    [registration] = step.registered
    assert not registration["may_replace"](Version("model", 4, "t", 0, {}), OLD)
    _, report = judged(similar, "checks.champion.margin=0.2")
    assert report["verdict"] == ("passed" if report["champion"]["difference"] >= 0 else "undecided")


def test_better_asks_for_more_than_not_worse() -> None:
    assert judged(pl.col("chance"))[1]["verdict"] == "passed"  # the champion's own scores
    config = load("local", ["registry.crown=better"])
    step, report = judged(pl.col("chance"), "../registry.crown=better")
    assert step.crown is config.registry.crown
    assert (report["verdict"], verdicts(report)["champion"]) == ("undecided", "undecided")


def test_a_model_with_the_same_order_but_a_much_higher_log_loss_is_refused() -> None:
    _, report = judged(pl.col("chance") ** 5)
    assert report["champion"]["difference"] == 0
    assert verdicts(report)["champion"] == "failed"
    gain = report["champion"]
    assert 0 < gain["loss_difference_low"] < gain["loss_difference"] < gain["loss_difference_high"]


def test_the_champion_itself_is_not_compared() -> None:
    step, report = run_model_qa(champion=OLD._replace(run_id="t"))
    assert (report["verdict"], verdicts(report)["champion"]) == ("passed", "not compared")
    assert step.summary_text == "passed 8 of 8, 2 not compared"


def test_without_the_check_no_model_replaces_the_champion() -> None:
    step, report = run_model_qa("checks.champion=null", champion=OLD)
    assert report["verdict"] == "passed"
    assert not step.registered[0]["may_replace"](Version("model", 4, "t", 0, {}), OLD)


def test_models_of_two_pipelines_at_once_are_compared_by_the_same_rule() -> None:
    step, _ = run_model_qa(champion=OLD)
    step._models |= {"rival": Echo("noisy"), "equal": Echo()}
    may_replace = step.registered[0]["may_replace"]
    mine = Version("model", 4, "t", 0, IDENTITY)
    rival, equal = (Version("model", 5, run, 0, IDENTITY) for run in ("rival", "equal"))
    assert may_replace(mine, OLD) and may_replace(mine, rival)
    assert not may_replace(rival, mine) and not may_replace(rival, OLD)
    assert not may_replace(mine, equal) and not may_replace(equal, mine)
    assert not may_replace(Version("model", 6, "equal", 0, {**IDENTITY, "label_1": "no"}), rival)


def test_a_champion_with_other_columns_is_skipped() -> None:
    class Other(Echo):
        feature_names_in_ = ("chance", "income")

    step, report = run_model_qa(champion=OLD, old=Other())
    assert verdicts(report)["champion"] == "not compared"
    assert "it takes columns that the test table does not have (income)" in str(report["checks"])
    assert report["champion"]["auc"] is None
    assert step.registered
