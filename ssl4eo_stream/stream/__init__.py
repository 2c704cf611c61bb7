"""Stream shards into uint8 batches, exactly once an epoch."""
