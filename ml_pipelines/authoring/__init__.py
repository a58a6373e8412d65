"""For authors of steps: the StepContext, and rules for Params.

May import config; types of data. Its imports are light, since loading the configuration imports each step's module.
"""
