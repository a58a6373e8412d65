"""Run one step in this process: its context, its MLflow run, its inputs and outputs.

This package may import models, and all that models may import.
"""
