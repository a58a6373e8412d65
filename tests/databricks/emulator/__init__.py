"""A Databricks workspace on loopback: real HTTP, and the code that is submitted is executed. See docs/emulator.md."""

from emulator.workspace import Workspace

__all__ = ["Workspace"]
