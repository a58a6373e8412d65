"""The Databricks bundle: merging and checking its job, and updating files from conf/.

This package may import planning, and all that planning may import.
"""
