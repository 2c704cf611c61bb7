"""Ways to load the same patches, one module each, for `loader.py` to run beside one another."""
