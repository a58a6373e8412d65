"""For steps only: the gate's quality checks, the values that they use, and drift.

May import authoring, problems and modelling.
"""
