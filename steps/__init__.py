"""One module a step: pure functions, and one `run` that reads, calls them, and logs."""
