"""For authors of steps: the StepContext, and rules for Params.

This package may import config, and the types of data. Its imports are light, since loading the configuration imports
each step's module.
"""
