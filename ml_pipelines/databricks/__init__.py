"""The Databricks workspace: sign-in, cluster specs, the Volume, submitted runs and how they end.

May import planning.
"""
