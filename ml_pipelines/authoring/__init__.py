"""For authors of steps: the StepContext, and rules for Params.

This package may import config, and only types from data. Its imports must be fast, because loading the configuration
imports each step's module, which imports this package.
"""
