"""Unity Catalog: who owns what, who has which privilege, and what a request to the model registry needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from emulator.errors import ApiError, missing
from emulator.files import VOLUMES

ADMINS = "metastore-admins"  # the group that owns the metastore, the catalogs and the schemas
EVERYBODY = "account users"
KINDS = ("METASTORE", "CATALOG", "SCHEMA", "FUNCTION")  # a model is a FUNCTION; by the number of parts of its name


class Catalog:
    """The owners and grants of one workspace. A test may change `groups`, `owners` and `grants`; `reset` undoes it.

    Attributes:
        groups: the groups that the user is a member of.
        hidden_groups: more of these groups, which the workspace does not list.
        owners: full name of a model -> its owner. A model that is not in it belongs to the user.
        tables: full name of a table -> its id.
        grants: full name of a catalog, schema or model -> principal -> privileges.
    """

    def __init__(self, user: str, has_model: Callable[[str], bool]) -> None:
        self.user = user
        self._has_model = has_model
        self.schemas = {".".join(name.split("/")[:2]) for name in VOLUMES}
        self.owners: dict[str, str] = {}
        self.tables: dict[str, str] = {}
        self.groups: set[str] = set()
        self.hidden_groups: set[str] = set()
        self.grants: dict[str, dict[str, set[str]]] = {}
        self.reset()

    def reset(self) -> None:
        """Give the user all privileges and all models, as before the first test."""
        self.owners.clear()
        self.tables.clear()
        self.groups, self.hidden_groups = set(), set()
        self.grants = {name.partition(".")[0]: {self.user: {"ALL_PRIVILEGES"}} for name in self.schemas}

    def admit(self, method: str, route: str, model: str) -> None:
        """Refuse a request of MLflow's client to the registry if the user lacks a privilege."""
        schema = model.rpartition(".")[0]
        if schema not in self.schemas:
            raise missing(f"Schema '{schema}' does not exist.")
        self._use(schema)
        if (method, route) == ("POST", "registered-models/create"):
            if not self._may(schema, "CREATE_MODEL", "CREATE_FUNCTION"):
                raise denied(f"User does not have CREATE MODEL on Schema '{schema}'.")
        elif route == "registered-models/alias" and method != "GET":
            self._be_owner(model)
        elif (method, route) == ("POST", "model-versions/create"):
            if not self._owns(model) and not self._may(model, "CREATE_MODEL_VERSION"):
                raise denied(f"User does not have CREATE MODEL VERSION on Routine or Model '{model}'.")
        elif method == "GET" and self._has_model(model):
            self._execute(model)

    def model(self, name: str) -> dict[str, Any]:
        """Answer GET unity-catalog/models/<name>."""
        schema = name.rpartition(".")[0]
        self._use(schema)
        if not self._has_model(name):
            raise missing(f"Routine or Model '{name}' does not exist.")
        self._execute(name)
        return {"full_name": name, "name": name.rpartition(".")[2], "owner": self._owner(name)}

    def catalog(self, name: str) -> dict[str, Any]:
        """Answer GET unity-catalog/catalogs/<name>."""
        self._use(name)
        return {"name": name, "owner": self._owner(name)}

    def schema(self, name: str) -> dict[str, Any]:
        """Answer GET unity-catalog/schemas/<name>."""
        self._use(name)
        return {"full_name": name, "owner": self._owner(name)}

    def table(self, name: str) -> dict[str, Any]:
        """Answer GET unity-catalog/tables/<name>."""
        if name not in self.tables:
            raise missing(f"Table '{name}' does not exist.")
        return {"full_name": name, "table_id": self.tables[name]}

    def metastore(self) -> dict[str, Any]:
        """Answer GET unity-catalog/metastore_summary."""
        return {"metastore_id": "1", "name": "emulated", "owner": ADMINS}

    def effective(self, kind: str, name: str, token: str | None) -> dict[str, Any]:
        """Answer GET unity-catalog/effective-permissions: one principal a page, after a page without any.

        Only an owner sees the grants of others.
        """
        if kind != KINDS[len(name.split("."))]:
            raise missing(f"{kind} '{name}' does not exist.")
        self._use(name)
        rows: dict[str, list[dict[str, str]]] = {}
        for above in _above(name):
            inherited = {"inherited_from_name": above, "inherited_from_type": KINDS[len(above.split("."))]}
            for principal, privileges in self.grants.get(above, {}).items():
                if principal in self._mine or self._owns(name):
                    found = [{"privilege": one, **(inherited if above != name else {})} for one in sorted(privileges)]
                    rows.setdefault(principal, []).extend(found)
        pages = [[], *([{"principal": principal, "privileges": found}] for principal, found in rows.items())]
        number = int(token or 0)
        following = {"next_page_token": str(number + 1)} if number + 1 < len(pages) else {}
        return {"privilege_assignments": pages[number], **following}

    @property
    def _mine(self) -> set[str]:
        return {self.user, EVERYBODY, *self.groups, *self.hidden_groups}

    def _owner(self, name: str) -> str:
        return self.owners.get(name, self.user if name.count(".") == 2 else ADMINS)

    def _owns(self, name: str) -> bool:
        return bool({self._owner(name), ADMINS} & self._mine)

    def _may(self, name: str, *privileges: str) -> bool:
        wanted = {*privileges, "ALL_PRIVILEGES"}
        granted = (self.grants.get(above, {}).get(me, set()) for above in _above(name) for me in self._mine)
        return self._owns(name) or any(wanted & one for one in granted)

    def _use(self, name: str) -> None:
        """Ask for USE CATALOG and USE SCHEMA on what exists."""
        for above, kind in zip(_above(name), KINDS[1:3], strict=False):
            if above not in self.schemas | {schema.partition(".")[0] for schema in self.schemas}:
                raise missing(f"{kind.title()} '{above}' does not exist.")
            if not self._may(above, f"USE_{kind}"):
                raise denied(f"User does not have USE {kind} on {kind.title()} '{above}'.")

    def _execute(self, model: str) -> None:
        if not self._owns(model) and not self._may(model, "EXECUTE"):
            raise denied(f"User does not have EXECUTE on Routine or Model '{model}'.")

    def _be_owner(self, model: str) -> None:
        if not self._owns(model):
            raise denied(f"User is not an owner of Routine or Model '{model}'.")


def _above(name: str) -> Iterator[str]:
    """Yield the catalog, the schema and the model of a full name."""
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def denied(message: str) -> ApiError:
    """Return the error for a missing privilege."""
    return ApiError(403, "PERMISSION_DENIED", message)
