"""Where to look, and what is fetched from there: locations, and patches of them."""
