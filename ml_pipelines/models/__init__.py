"""Models: their files, and the registry with its versions and aliases.

This package may import tracking, and all that tracking may import.
"""
