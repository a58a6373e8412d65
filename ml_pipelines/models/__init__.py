"""Models: their files, and the registry with its versions and aliases.

May import tracking.
"""
