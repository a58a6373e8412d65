"""Backends, which run the steps: one module for each backend, and catalog.py with their names.

May import databricks.
"""
