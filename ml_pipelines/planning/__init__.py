"""What a pipeline run will do: the plan, which steps are reused and why, and the protocol of a backend.

This package may import execution, and all that execution may import.
"""
