"""Rows and tables: engines, sources, ingest, Delta tables, the data contract, data warnings.

May import config.
"""
