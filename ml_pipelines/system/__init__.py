"""The machine: paths, processes, signals, the terminal, events, the version of the wheel.

May import ml_pipelines.errors.
"""
