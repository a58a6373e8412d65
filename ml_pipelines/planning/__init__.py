"""What a pipeline run will do: the plan, which steps are reused and why, and the protocol of a backend.

May import execution.
"""
