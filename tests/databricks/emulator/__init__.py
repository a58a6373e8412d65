"""An emulated Databricks workspace on loopback: real HTTP, and it executes the submitted code (docs/emulator.md)."""

from emulator.workspace import Workspace

__all__ = ["Workspace"]
