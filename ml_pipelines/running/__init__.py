"""A pipeline run: the scheduler, the parent run, parity of the engines.

May import backends and report.
"""
