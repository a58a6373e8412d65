"""The MLflow store: runs, their pages, and the outputs and inputs of steps.

May import data.
"""
