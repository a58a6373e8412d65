"""Unity Catalog's registry: whether the signed-in user may register the model and move its aliases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ml_pipelines.config.rules import CHAMPION
from ml_pipelines.config.schema import Config, Step
from ml_pipelines.databricks import workspace
from ml_pipelines.errors import ConfigError
from ml_pipelines.models import registry
from ml_pipelines.system import events
from ml_pipelines.tracking import opening

if TYPE_CHECKING:
    from databricks.sdk.service.catalog import RegisteredModelInfo
    from databricks.sdk.service.iam import User

EVERYBODY = "account users"  # the group of all users of the account
CREATING = {"CREATE_MODEL", "CREATE_FUNCTION", "ALL_PRIVILEGES"}  # each allows its holder to create a model
# The name of a person is a mail address, and the name of a service principal is a UUID. Any other name is a group's.
NOT_A_GROUP = re.compile(r".+@.+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_registry(config: Config, steps: Iterable[Step]) -> None:
    """Check that the signed-in user may register the model, if one of the steps registers it in Unity Catalog.

    Only the owner of a registered model may set an alias, so the privilege CREATE MODEL VERSION is not enough.

    Raises:
        ConfigError: the user lacks a privilege; the message says what to grant.
        NoAnswer: the workspace does not answer.
    """
    registers = any(CHAMPION in step.external for step in steps)
    if not registers or not opening.registry_uri(config).startswith("databricks-uc"):
        return
    workspace.select(config)
    name = registry.model_name(config)
    if name.count(".") != 2:
        raise ConfigError(
            f"registry.model: {name} can't name a model in Unity Catalog. Set it to catalog.schema.model."
        )
    catalog, schema, _ = name.split(".")
    needs = f"USE CATALOG on {catalog}, USE SCHEMA on {catalog}.{schema}, and to be the owner of the model"
    with workspace.explaining_errors(f"registry.model {name}", needs):
        me = workspace.client().current_user.me()
        model = _find_model(name)
        if model is not None:
            _check_owner(name, str(model.owner), me)
    if model is None:
        needs = f"USE CATALOG on {catalog}, USE SCHEMA and CREATE MODEL on {catalog}.{schema}"
        with workspace.explaining_errors(f"registry.model {name}", needs):
            _check_schema(name, me, needs)


def _find_model(name: str) -> RegisteredModelInfo | None:
    from databricks.sdk.errors import NotFound

    try:
        return workspace.client().registered_models.get(name)
    except NotFound:
        return None


def _check_owner(name: str, owner: str, me: User) -> None:
    mine = _names_of(me)
    if owner in mine or _metastore_admin() in mine:
        return
    if NOT_A_GROUP.fullmatch(owner):
        raise ConfigError(
            f"registry.model: {name} belongs to {owner}, and only a model's owner may set its aliases. Ask {owner} to "
            "make a group the owner that both of you belong to: "
            f"databricks registered-models update {name} --owner <group>"
        )
    events.report(  # only a warning: perhaps the user is in the group, but the workspace does not list all groups
        events.Notice(
            f"registry.model: {name} belongs to the group {owner}, and only a model's owner may set its aliases. "
            f"The workspace does not list {me.user_name} as a member. If the list is complete, the last step will fail."
        )
    )


def _check_schema(name: str, me: User, needs: str) -> None:
    """Raise ConfigError if the user has no privilege to create the model in its schema.

    If the user lacks USE CATALOG or USE SCHEMA, Databricks refuses the requests for the catalog and the schema, and
    this function raises the SDK's error.
    """
    schema = name.rpartition(".")[0]
    client, mine = workspace.client(), _names_of(me)
    owners = {client.catalogs.get(schema.partition(".")[0]).owner, client.schemas.get(schema).owner}
    if owners & mine or _metastore_admin() in mine:
        return
    creators = {principal for principal, privilege in _effective_privileges(schema) if privilege in CREATING}
    if creators & mine:
        return
    raise ConfigError(
        f"registry.model: {me.user_name} can't create {name}. You need {needs}. "
        f"An administrator runs: GRANT CREATE MODEL ON SCHEMA {schema} TO `{me.user_name}`"
    )


def _names_of(me: User) -> set[str | None]:
    return {me.user_name, EVERYBODY, *(group.display for group in me.groups or [])}


def _metastore_admin() -> str | None:
    """Return the owner of the metastore, who may do everything with a model. It is usually a group."""
    from databricks.sdk.errors.base import DatabricksError

    try:
        return workspace.client().metastores.summary().owner
    except DatabricksError:  # not every user has permission to see the metastore
        return None


def _effective_privileges(schema: str) -> Iterator[tuple[str, str]]:
    """Yield (principal, privilege) of the grants on a schema and of inherited grants, if the user may see them.

    An empty page is not always the last page: the last page has no token. This function calls the API directly,
    because the SDK's method for effective privileges differs between versions of the SDK.
    """
    path, token = f"/api/2.1/unity-catalog/effective-permissions/SCHEMA/{schema}", None
    while token != "":
        query = {"max_results": 0} | ({"page_token": token} if token else {})
        page: dict[str, Any] = workspace.client().api_client.do("GET", path, query=query)
        for assignment in page.get("privilege_assignments", []):
            for privilege in assignment.get("privileges", []):
                yield assignment["principal"], privilege["privilege"]
        token = page.get("next_page_token", "")
