"""One step in this process: its context, its run, its outputs.

This package may import models, and all that models may import.
"""
