"""One front door per console script."""
