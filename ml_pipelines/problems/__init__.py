"""Metrics, curves, intervals and comparisons, which depend on the kind of problem: binary classification so far.

This package may import config, and all that config may import.
"""
