"""The configuration: its types, loading, and the rules that it must obey.

May import system.
"""
