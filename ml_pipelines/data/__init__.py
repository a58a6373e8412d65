"""Rows and tables: engines, sources, files, ingest, Delta tables, the data contract, data warnings.

This package may import config, and all that config may import.
"""
