"""Cluster specs are checked before a workspace could refuse them; the end of a run gives an exit code and a cause."""

import json
from typing import Any

import pytest
from answering import answering, by_path
from conftest import ROOT
from databricks.sdk.service.jobs import Run

from ml_pipelines.config.loading import load
from ml_pipelines.databricks import job_payload, outcome, specs, volume
from ml_pipelines.errors import ConfigError

SPARK = json.loads((ROOT / "resources/clusters/dev/spark.json").read_text())
SINGLE = json.loads((ROOT / "resources/clusters/dev/single_node.json").read_text())
AUTO = {"min_workers": 1, "max_workers": 2}


def without_disks(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "aws_attributes"}


def disks(spec: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return spec | {"aws_attributes": spec["aws_attributes"] | attributes}


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("resources/clusters/*/*.json")), ids=lambda path: f"{path.parent.name}.{path.stem}"
)
def test_the_projects_own_specs_pass(path: Any) -> None:
    assert specs.parse_compute(json.loads(path.read_text()), path.name).new_cluster is not None


def test_every_option_of_the_sdk_passes_through() -> None:
    more = {
        "policy_id": "P1", "instance_pool_id": "pool", "spark_env_vars": {"A": "b"},
        "init_scripts": [{"volumes": {"destination": "/Volumes/a/b/c/x.sh"}}],
    }  # fmt: skip
    cluster = specs.parse_compute(SPARK | more, "x").new_cluster
    assert cluster is not None and cluster.as_dict() == SPARK | more


def test_keys_that_mlflow_writes_into_a_spec_are_ignored() -> None:
    mlflow_keys = {"ENV_MANAGER": "local", "SYNCHRONOUS": False, "DOCKER_ARGS": None, "STORAGE_DIR": None,
               "build_image": False, "docker_auth": None}  # fmt: skip
    assert specs.parse_compute(SINGLE | mlflow_keys, "x") == specs.parse_compute(SINGLE, "x")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SPARK | {"autoscale": AUTO}, "both num_workers and autoscale"),
        ({k: v for k, v in SPARK.items() if k != "num_workers"}, "no size"),
        (SPARK | {"num_workers": 0}, "num_workers 0 is a single node, which needs spark_conf"),
        (SINGLE | {"custom_tags": {}}, "ResourceClass: SingleNode"),
        (SINGLE | {"spark_conf": {"spark.master": "local[*]"}}, "singleNode"),
        (SINGLE | {"num_workers": 3}, "a single node has num_workers 0"),
        (SINGLE | {"is_single_node": True, "kind": "CLASSIC_PREVIEW"}, "mean the same"),
        (SPARK | {"data_security_mode": "USER_ISOLATION"}, "an ML runtime needs data_security_mode SINGLE_USER"),
        ({k: v for k, v in SPARK.items() if k != "data_security_mode"}, "needs data_security_mode SINGLE_USER"),
        (SPARK | {"data_security_mode": "SINGEL_USER"}, "data_security_mode=SINGEL_USER is not a key or value"),
        (SPARK | {"num_worker": 2}, "num_worker=2 is not a key or value"),
        ({**SPARK, "aws_attributes": {"availabilty": "SPOT"}}, "aws_attributes.availabilty=SPOT is not a key"),
        (SPARK | {"spark_version": ""}, "no spark_version"),
        ({k: v for k, v in SPARK.items() if k != "node_type_id"}, "no node_type_id"),
        (
            without_disks(SPARK),
            'm6i.xlarge has no local disk, so AWS needs at least one EBS volume. Add "aws_attributes": ',
        ),
        (without_disks(SINGLE), "r6i.xlarge has no local disk"),
        (disks(SPARK, ebs_volume_count=0), "m6i.xlarge has no local disk"),
        (without_disks(SPARK) | {"node_type_id": "m6id.xlarge", "driver_node_type_id": "r5.large"}, "r5.large has no"),
        (disks(SPARK, ebs_volume_count=11), "ebs_volume_count is 11. A node has at most 10"),
        (disks(SPARK, ebs_volume_size=50), "ebs_volume_size is 50. GENERAL_PURPOSE_SSD has 100 to 4096 GB."),
        (disks(SPARK, ebs_volume_size=4097), "ebs_volume_size is 4097"),
        (disks(SPARK, ebs_volume_type="THROUGHPUT_OPTIMIZED_HDD"), "THROUGHPUT_OPTIMIZED_HDD has 500 to 4096 GB."),
        ({"existing_cluster_id": "x", "num_workers": 1}, "existing_cluster_id must be the only key"),
    ],
)
def test_a_spec_that_a_workspace_would_refuse_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.json") as error:
        specs.parse_compute(spec, "mine.json")
    assert message in str(error.value)


NO_DISK = ["m4.large", "m5.large", "m5a.xlarge", "m5n.large", "m5zn.large", "m6g.large", "m6i.8xlarge", "m7i.large",
           "m7i-flex.large", "m-fleet.xlarge", "r4.large", "r5.large", "r5b.large", "r6i.metal", "r7iz.large",
           "r8g.24xlarge", "rg-fleet.xlarge", "c4.large", "c5.large", "c5n.large", "c6i.large", "c7gn.large",
           "m10i.large"]  # fmt: skip
DISK = ["m3.large", "m5d.large", "m5ad.large", "m5dn.large", "m6gd.large", "m6id.xlarge", "m6idn.large", "r3.large",
        "r5d.large", "r5dn.large", "r6id.xlarge", "c3.large", "c5d.large", "c5ad.large", "c6gd.large", "md-fleet.large",
        "rgd-fleet.xlarge", "i3.xlarge", "i3en.large", "i4i.large", "d3.xlarge", "g4dn.xlarge",
        "Standard_DS3_v2", "Standard_E4d_v4", "n2-highmem-4", "c2-standard-8", "m1-ultramem-40"]  # fmt: skip


@pytest.mark.parametrize("node", NO_DISK)
def test_an_aws_node_without_a_local_disk_needs_an_ebs_volume(node: str) -> None:
    with pytest.raises(ConfigError, match=f"{node} has no local disk"):
        specs.parse_compute(without_disks(SPARK) | {"node_type_id": node}, "x")
    assert specs.parse_compute(SPARK | {"node_type_id": node}, "x").new_cluster


@pytest.mark.parametrize("node", DISK)
def test_a_node_with_local_disks_or_of_another_cloud_needs_no_ebs_volume(node: str) -> None:
    assert specs.parse_compute(without_disks(SPARK) | {"node_type_id": node}, "x").new_cluster


@pytest.mark.parametrize("source", [{"enable_elastic_disk": True}, {"policy_id": "P1"}, {"instance_pool_id": "pool"}])
def test_a_pool_a_policy_or_elastic_disks_replace_ebs_volumes(source: dict[str, Any]) -> None:
    assert specs.parse_compute(without_disks(SPARK) | source, "x").new_cluster


def test_a_running_cluster_and_serverless_need_no_cluster_spec() -> None:
    assert specs.parse_compute({"existing_cluster_id": "0923-164208-x"}, "x").existing_cluster_id == "0923-164208-x"
    assert specs.parse_compute({"environment_version": "4"}, "x").environment_version == "4"


def test_both_node_types_of_a_spec_must_be_in_the_workspace() -> None:
    lists = {"spark-versions": {"versions": [{"key": SPARK["spark_version"]}]},
             "list-node-types": {"node_types": [{"node_type_id": "m6i.xlarge"}]}}  # fmt: skip
    specs._runtimes_and_nodes.cache_clear()
    with answering(by_path(lists)):
        specs.check_available(specs.parse_compute(SPARK, "x"))
        other = specs.parse_compute(SPARK | {"driver_node_type_id": "r6i.xlarge"}, "mine.json")
        with pytest.raises(ConfigError, match=r"mine\.json: http.* has no node type r6i\.xlarge"):
            specs.check_available(other)
    specs._runtimes_and_nodes.cache_clear()


def test_a_wheel_that_the_volume_has_is_not_uploaded_again() -> None:
    path = "/Volumes/a/b/c/code/d/ml_pipelines-1-py3-none-any.whl"
    with answering(by_path({path: {}})) as stand:
        volume.upload_wheel(path)
    assert stand.requests == [f"HEAD /api/2.0/fs/files{path}"]


@pytest.mark.parametrize(("timeout_s", "seconds"), [("0.5", 1), ("60", 60), ("60.2", 61), ("null", None)])
def test_the_time_limit_of_a_job_is_whole_seconds_and_never_none_by_rounding(timeout_s: str, seconds: int) -> None:
    """For the Jobs API, 0 means no limit."""
    config = load("dev", [f"steps.train.timeout_s={timeout_s}"])
    compute = specs.parse_compute({"existing_cluster_id": "0923-164208-x"}, "x")
    submission = job_payload.submission_of(config, config.step("train"), compute, {}, "0" * 32)
    assert submission.task.timeout_seconds == seconds


def test_a_change_of_the_code_during_a_pipeline_run_is_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    volume._version.cache_clear()
    config = load("dev")
    first = volume.wheel_path(config)
    monkeypatch.setattr(volume.wheel_version, "version", lambda _: "0.2.0+c0123456789")
    assert volume.wheel_path(config) == first
    volume._version.cache_clear()
    assert "/dev/testing/code/c0123456789/ml_pipelines-0.2.0+c0123456789-py3" in volume.wheel_path(config)
    volume._version.cache_clear()


def outcome_of_state(
    life: str, result: str | None = None, message: str = "", code: str | None = None
) -> outcome.Outcome:
    state = {"life_cycle_state": life, "result_state": result, "state_message": message}
    return outcome.outcome_of(
        Run.from_dict({"state": state, "status": {"termination_details": {"code": code}} if code else {}})
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("TERMINATED", "SUCCESS"), 0, ""),
        (("TERMINATED", "TIMEDOUT"), 124, "longer than its time limit"),
        (("RUNNING",), 124, "still RUNNING"),
        (("TERMINATED", "CANCELED", "by x@y"), 4, "run was cancelled: by x@y"),
        (("SKIPPED",), 4, "skipped its run, so nothing was executed"),
        (("TERMINATED", "FAILED", "", "MAX_CONCURRENT_RUNS_EXCEEDED"), 4, "skipped"),
        (("TERMINATED", "FAILED", "x", "LIBRARY_INSTALLATION_ERROR"), 4, "library was not installed: x. This runtime"),
        (("TERMINATED", "FAILED", "no quota", "CLUSTER_ERROR"), 4, "cluster did not start: no quota. Check quota"),
        (("INTERNAL_ERROR", None, "odd"), 4, "ended INTERNAL_ERROR: odd"),
        (("TERMINATED", "FAILED", "x", "UNAUTHORIZED_ERROR"), 2, "refused the run (UNAUTHORIZED_ERROR): x"),
    ],
)  # fmt: skip
def test_each_end_of_a_run_has_an_exit_code_and_a_cause(arguments: tuple[str], code: int, message: str) -> None:
    run_outcome = outcome_of_state(*arguments)
    assert run_outcome.exit_code == code and message in run_outcome.cause


def test_the_end_of_the_task_overrides_the_end_of_the_run() -> None:
    tasks = [{"task_key": "train", "state": {"life_cycle_state": "TERMINATED", "result_state": "TIMEDOUT"}}]
    run = Run.from_dict({"state": {"life_cycle_state": "INTERNAL_ERROR", "result_state": "FAILED"}, "tasks": tasks})
    assert outcome.outcome_of(run).exit_code == 124


def test_only_transient_failures_are_retried() -> None:
    assert outcome_of_state("INTERNAL_ERROR", "FAILED", "cluster: INSUFFICIENT_CAPACITY(CLOUD_FAILURE)").transient
    assert outcome_of_state("TERMINATED", "FAILED", "x", "CLUSTER_REQUEST_LIMIT_EXCEEDED").transient
    assert not outcome_of_state("TERMINATED", "FAILED", "no such node type", "INVALID_CLUSTER_REQUEST").transient
    assert not outcome_of_state("TERMINATED", "FAILED", "boom", "RUN_EXECUTION_ERROR").transient
