"""One step in this process: its context, its run, its outputs.

May import models.
"""
