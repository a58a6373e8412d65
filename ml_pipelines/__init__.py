"""The library that driver.py and the steps use. docs/development.md shows which package may import which."""
