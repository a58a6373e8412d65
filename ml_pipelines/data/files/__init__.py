"""Reads local CSV and Parquet files, the same on every engine.

What engines read differently is copied once, with plain types.
"""
