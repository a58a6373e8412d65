"""The report of a pipeline run: gather its contents from the store, draw charts, render the page and log it.

This package may import planning, and all that planning may import.
"""
