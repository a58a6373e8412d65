"""The configuration: its types, loading, and the rules that it must obey.

This package may import system, and all that system may import.
"""
