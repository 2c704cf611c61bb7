"""Views of a location, in uint8, for any number of bands."""
