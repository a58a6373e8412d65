"""A pipeline run: the scheduler, the parent run, parity of the engines.

This package may import backends, report, and all that they may import.
"""
