"""The commands: `ml-pipelines` and the wheel's console scripts.

May import everything.
"""
