"""The report of a pipeline run: gather its contents from the store, draw charts, render the page and log it.

May import planning.
"""
