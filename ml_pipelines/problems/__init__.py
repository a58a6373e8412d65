"""Metrics, curves, intervals and comparisons, which depend on the kind of problem: binary classification so far.

May import config.
"""
