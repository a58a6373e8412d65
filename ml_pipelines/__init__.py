"""The library under driver.py and the steps. docs/development.md shows its packages and who may import whom."""
