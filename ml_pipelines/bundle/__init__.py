"""The Databricks bundle: merging and checking its job, and updating files from conf/.

May import planning.
"""
