"""The machine: paths, processes, signals, the terminal, events, the version of the wheel.

This package may import ml_pipelines.errors and ml_pipelines.text, and no other part of the library.
"""
