"""Why a step runs, or why its result is reused. The terminal and MLflow's pages show a Decision as text."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Run


class Reason(enum.Enum):
    """Why a step runs, or why its earlier result is reused (`unchanged`)."""

    unchanged = "unchanged"
    off = "reuse is off"
    elsewhere = "this machine can't verify tables on a Volume"
    forced = "forced"
    selected = "you selected it"
    first_run = "first run"
    code = "code changed"
    param = "param"
    input = "input changed"
    source = "source changed"
    file = "file changed"
    variable = "environment changed"
    external = "external changed"
    engine = "engine"
    library = "library"
    setting = "setting"
    unexplained = "unknown change: fingerprint.json of the earlier run is missing"
    outputs = "outputs are missing or damaged"
    unknowable = "the source must be read to know its content"
    upstream = "upstream runs"


NEVER_REUSED = (Reason.off, Reason.elsewhere, Reason.forced, Reason.selected, Reason.unknowable)


@dataclass(frozen=True)
class Decision:
    """What happens to a step: `run` is the finished run to reuse, or None if the step runs."""

    reason: Reason
    detail: str = ""
    run: Run | None = None
    parts: Mapping[str, Any] | None = None  # the parts of the step's fingerprint

    def __str__(self) -> str:
        """Return the reason as text, for example `param options.max_iter 100 -> 200`."""
        return f"{self.reason.value} {self.detail}".strip()
