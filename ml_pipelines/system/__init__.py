"""The machine: paths, processes, signals, the terminal, events, the version of the wheel.

This package may import ml_pipelines.errors.
"""
