"""What a download will cost, before it begins: requests, bytes, time."""

from dataclasses import dataclass

import numpy as np

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.collect.fetch import Request

SECONDS_PER_REQUEST = 1.5
"""An assumption, for want of a measurement: how long a request takes, most of it spent waiting."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the locations that are good will cost; those that are rejected come on top."""

    searches: int
    """Requests that look for scenes, at least: the year before is one more for each product."""
    cuts: int
    """Requests for pixels: one per native grid of each patch."""
    num_bytes: int
    """Pixels, not compressed."""
    seconds: float
    """Time, if every request takes `SECONDS_PER_REQUEST`."""


def cost_of(locations: int, *, request: Request, concurrency: int) -> Cost:
    """Return what it costs to collect so many locations.

    Args:
        locations: How many.
        request: What is taken of each.
        concurrency: Requests at once.
    """
    products = [PRODUCTS[name] for name in request.wish.products]
    dates = len(request.calendar.dates)
    searches = locations * len(products)
    cuts = locations * dates * sum(len(product.grids) for product in products)
    each = sum(
        band.pixels**2 * np.dtype(product.dtype).itemsize
        for product in products
        for band in product.bands
    )
    return Cost(
        searches=searches,
        cuts=cuts,
        num_bytes=locations * dates * each,
        seconds=(searches + cuts) * SECONDS_PER_REQUEST / min(concurrency, max(locations, 1)),
    )
