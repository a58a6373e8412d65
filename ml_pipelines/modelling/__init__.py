"""Functions that steps share: check a table before a fit, find an estimator, score a table, compare keys.

This package may import authoring, and all that authoring may import.
"""
