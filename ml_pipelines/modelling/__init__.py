"""For steps only: check a table before a fit, find an estimator, score a table.

May import authoring.
"""
