"""The preflight asks Unity Catalog whether the user may register the model, before the first cluster starts."""

import json
import re
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
from doubling import log_model
from emulator import Workspace
from emulator.catalog import EVERYBODY
from mlflow.exceptions import MlflowException
from mlflow.store._unity_catalog.registry.rest_store import UcModelRegistryStore

from ml_pipelines.config.loading import load
from ml_pipelines.config.schema import Config
from ml_pipelines.databricks import unity_catalog
from ml_pipelines.databricks import workspace as api
from ml_pipelines.errors import ConfigError
from ml_pipelines.models import registry
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store

pytestmark = pytest.mark.slow

SCHEMA = "ml_artifacts.dev"
USE = {"USE_CATALOG", "USE_SCHEMA"}
ALICE = "alice@example.com"


@pytest.fixture
def client(workspace: Workspace) -> Iterator[mlflow.MlflowClient]:
    api._client.cache_clear()
    yield mlflow.MlflowClient("databricks", "databricks-uc")
    api._client.cache_clear()


def configured(model: str, *settings: str) -> Config:
    return load("dev", [f"registry.model={SCHEMA}.{model}", *settings])


def check(model: str, *settings: str) -> None:
    config = configured(model, *settings)
    unity_catalog.check_registry(config, config.steps.values())


def new_model(client: mlflow.MlflowClient, workspace: Workspace, name: str, owner: str) -> str:
    client.create_registered_model(f"{SCHEMA}.{name}")
    workspace.catalog.owners[f"{SCHEMA}.{name}"] = owner
    return f"{SCHEMA}.{name}"


# -- a model that exists


@pytest.mark.parametrize(("owner", "privilege"), [(ALICE, "CREATE_MODEL_VERSION"), (ALICE, "ALL_PRIVILEGES"),
                                                  ("8dc8a2f5-6f1c-4a35-9d4b-0f1f5c1c2d3e", "EXECUTE")])  # fmt: skip
def test_a_model_of_somebody_else_is_refused_whatever_is_granted(
    workspace: Workspace, client: mlflow.MlflowClient, owner: str, privilege: str
) -> None:
    name = f"others_{privilege.lower()}"
    new_model(client, workspace, name, owner)
    workspace.catalog.grants = {"ml_artifacts": {EVERYBODY: {*USE, "EXECUTE", privilege}}}
    how = f"databricks registered-models update {SCHEMA}"
    advice = f"Ask {owner} to make a group the owner that both of you belong to: {how}"
    with pytest.raises(ConfigError, match=re.escape(advice)):
        check(name)


def test_the_preflight_and_the_alias_agree(workspace: Workspace, client: mlflow.MlflowClient) -> None:
    """With CREATE MODEL VERSION only, Unity Catalog creates a version, and refuses its alias."""
    mlflow.set_experiment("/Shared/versions")
    with mlflow.start_run() as run:
        mlflow.log_text("x", "model/MLmodel")
    model = new_model(client, workspace, "versions_only", ALICE)
    workspace.catalog.grants = {"ml_artifacts": {EVERYBODY: USE}, model: {workspace.user: {"EXECUTE"}}}
    create = {"name": model, "source": f"runs:/{run.info.run_id}/model", "run_id": run.info.run_id}
    with pytest.raises(MlflowException, match="CREATE MODEL VERSION on Routine or Model"):
        post(client, "model-versions/create", create)
    workspace.catalog.grants[model] = {workspace.user: {"EXECUTE", "CREATE_MODEL_VERSION"}}
    post(client, "model-versions/create", create)
    with pytest.raises(MlflowException, match="User is not an owner of Routine or Model"):
        client.set_registered_model_alias(model, "champion", "1")
    with pytest.raises(ConfigError, match="only a model's owner may set its aliases"):
        check("versions_only")
    workspace.catalog.owners[model], workspace.catalog.groups = "ml-team", {"ml-team"}
    check("versions_only")
    client.set_registered_model_alias(model, "champion", "1")


def post(client: mlflow.MlflowClient, route: str, body: dict[str, Any]) -> None:
    from mlflow.utils.databricks_utils import get_databricks_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    path = f"/api/2.0/mlflow/unity-catalog/{route}"
    verify_rest_response(http_request(get_databricks_host_creds("databricks"), path, "POST", json=body), path)


def test_the_owner_of_the_model_may_lack_the_privilege_to_create_models(
    workspace: Workspace, client: mlflow.MlflowClient
) -> None:
    run_id, model_uri = log_model()
    model = new_model(client, workspace, "of_a_team", "ml-team")
    workspace.catalog.groups, workspace.catalog.grants = {"ml-team"}, {"ml_artifacts": {"ml-team": USE}}
    check("of_a_team")
    store = Store("databricks", "databricks-uc")
    registry.register_version(store, configured("of_a_team"), model_uri, run_id, {"verdict": "passed"})
    assert client.get_model_version_by_alias(model, "challenger").run_id == run_id
    with pytest.raises(MlflowException, match="User does not have CREATE MODEL on Schema"):
        client.create_registered_model(f"{SCHEMA}.another_of_a_team")


@pytest.mark.parametrize("listed", [True, False])
def test_a_group_that_the_workspace_does_not_list_is_reported_and_not_refused(
    workspace: Workspace, client: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str], listed: bool
) -> None:
    new_model(client, workspace, f"of_a_group_{listed}", "ml-team")
    setattr(workspace.catalog, "groups" if listed else "hidden_groups", {"ml-team"})
    check(f"of_a_group_{listed}")
    notice = f"{SCHEMA}.of_a_group_{listed} belongs to the group ml-team, and only a model's owner may set its aliases."
    assert (notice in capsys.readouterr().out) is not listed


def test_a_metastore_admin_may_set_the_alias_of_any_model(workspace: Workspace, client: mlflow.MlflowClient) -> None:
    new_model(client, workspace, "of_alice", ALICE)
    workspace.catalog.groups, workspace.catalog.grants = {"metastore-admins"}, {}
    check("of_alice")
    check("not_there_yet")


def test_a_model_that_the_user_may_not_see_is_refused(workspace: Workspace, client: mlflow.MlflowClient) -> None:
    new_model(client, workspace, "hidden", ALICE)
    workspace.catalog.grants = {"ml_artifacts": {EVERYBODY: USE}}
    with pytest.raises(ConfigError, match=r"no permission\. You need USE CATALOG .* and to be the owner of the model"):
        check("hidden")


# -- a model that the first run creates


@pytest.mark.parametrize(
    ("catalog", "schema", "message"),
    [
        (set(), set(), "You need USE CATALOG on ml_artifacts, USE SCHEMA"),
        ({"USE_CATALOG"}, {"CREATE_MODEL"}, "User does not have USE SCHEMA on Schema 'ml_artifacts.dev'"),
        ({"USE_CATALOG"}, {"USE_SCHEMA"}, "GRANT CREATE MODEL ON SCHEMA ml_artifacts.dev TO `emulated.user@example"),
        ({"USE_CATALOG"}, {"USE_SCHEMA", "CREATE_TABLE"}, "can't create ml_artifacts.dev.first. You need USE CATALOG"),
        (USE, {"CREATE_MODEL"}, None),
        ({*USE, "CREATE_MODEL"}, set(), None),
        ({"ALL_PRIVILEGES"}, set(), None),
        (USE, {"CREATE_FUNCTION"}, None),
    ],
)
@pytest.mark.parametrize("principal", ["emulated.user@example.com", "data-team", EVERYBODY])
def test_the_first_version_needs_the_privilege_to_create_a_model(
    workspace: Workspace,
    client: mlflow.MlflowClient,
    principal: str,
    catalog: set[str],
    schema: set[str],
    message: str | None,
) -> None:
    workspace.catalog.groups = {"data-team"}
    workspace.catalog.grants = {
        "ml_artifacts": {principal: catalog},
        SCHEMA: {principal: schema, ALICE: {"CREATE_MODEL"}},
    }
    if message is None:
        check("first")
        return
    with pytest.raises(ConfigError) as error:
        check("first")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_schema_that_is_not_there_is_named(client: mlflow.MlflowClient) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.model: not found in http.*Schema 'ml_artifacts.nowhere' does not"):
        check("x", "registry.model=ml_artifacts.nowhere.model")


def test_a_step_that_registers_nothing_and_another_registry_need_no_privilege(
    workspace: Workspace, client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.catalog.grants = {}
    config = configured("x")
    unity_catalog.check_registry(config, [config.step("prepare_data"), config.step("train")])
    check("x", "mlflow.registry_uri=databricks")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks")
    check("x")


def test_without_a_registry_of_its_own_the_workspace_uses_unity_catalog(client: mlflow.MlflowClient) -> None:
    with pytest.raises(ConfigError, match=r"registry.model: ml-pipelines-dev can't name a model in Unity Catalog"):
        config = load("dev", ["mlflow.registry_uri=null,registry.model=ml-pipelines-dev"])
        unity_catalog.check_registry(config, config.steps.values())


# -- lineage


@pytest.mark.parametrize("known", [True, False])
def test_a_table_of_unity_catalog_is_an_input_by_name_and_id(
    workspace: Workspace, client: mlflow.MlflowClient, known: bool
) -> None:
    """MLflow's own client judges: only with both does it tell Unity Catalog which tables a model comes from."""
    if known:
        workspace.catalog.tables["main.sales.orders"] = "8dc8a2f5"
    experiment = mlflow.set_experiment("/Shared/lineage").experiment_id
    run_id = client.create_run(experiment).info.run_id
    lineage.log_named_input(Store("databricks"), run_id, "main.sales.orders", 0, "prepare_data")
    run = client.get_run(run_id)
    source = {"delta_table_name": "main.sales.orders", "delta_table_version": 0, "is_databricks_uc_table": True}
    [logged] = run.inputs.dataset_inputs
    assert json.loads(logged.dataset.source) == source | ({"delta_table_id": "8dc8a2f5"} if known else {})
    upstream = UcModelRegistryStore("databricks-uc", "databricks")._get_lineage_input_sources(run)
    assert [one.table.table_id for one in upstream] == (["8dc8a2f5"] if known else [])
