"""Metrics, curves, intervals and comparisons, which depend on the kind of problem. So far: two classes.

May import config.
"""
