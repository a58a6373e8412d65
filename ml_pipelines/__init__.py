"""The library under driver.py and the steps: configuration, the run and its steps, tables, engines."""
