"""Databricks: steps as one-time runs of the wheel, on clusters of their own, through databricks-sdk."""
