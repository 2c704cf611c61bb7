"""Turn GeoTIFFs into reproducible tar shards."""
