"""The commands: `ml-pipelines` and the wheel's console scripts.

This package may import every other package.
"""
