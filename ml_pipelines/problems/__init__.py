"""Metrics, curves, intervals and comparisons for each kind of problem. So far, the only kind is binary classification.

This package may import config, and all that config may import.
"""
