"""For steps only: the gate's quality checks, the values that they use, and drift.

This package may import authoring, problems, modelling, and all that they may import.
"""
