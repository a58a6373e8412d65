"""Backends, which run the steps: one module for each backend, and catalog.py with their names.

This package may import databricks, and all that databricks may import.
"""
