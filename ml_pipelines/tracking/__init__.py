"""The MLflow store: runs, their pages, and the outputs and inputs of steps.

This package may import data, and all that data may import.
"""
