"""Reads local CSV and Parquet files, the same on every engine.

Files that engines read differently are copied once, with plain types.
"""
