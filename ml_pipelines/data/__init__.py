"""Rows and tables: engines, sources, files, ingest, Delta tables, the data contract, data warnings.

May import config.
"""
