"""The Databricks workspace: sign-in, cluster specs, the Volume, submitted runs and how they end.

This package may import planning, and all that planning may import.
"""
