"""One module for each step. Its `run` reads the inputs, calls pure functions and logs the results."""
