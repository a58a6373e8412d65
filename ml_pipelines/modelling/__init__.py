"""For steps only: check a table before a fit, find an estimator, score a table.

This package may import authoring, and all that authoring may import.
"""
