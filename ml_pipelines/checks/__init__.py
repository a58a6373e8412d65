"""The gate's quality checks, the values that they use, and drift. Only steps import this package.

This package may import authoring, problems, modelling, and all that they may import.
"""
