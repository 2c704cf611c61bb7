"""Self-supervised methods, one file per paper."""
