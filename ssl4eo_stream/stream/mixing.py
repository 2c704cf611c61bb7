"""How well an order mixes, against a perfect shuffle: pure arithmetic on row numbers, no pixels.

Every score is 1 for a perfect shuffle in expectation, and near 0 for an order that goes through
the shards from front to back. N locations, M batches of B.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64

from ssl4eo_stream.stream.plan import Order, Topology, length, num_steps, stream

EARTH_RADIUS_KILOMETRES = 6371.0
"""Mean radius (IUGG 1980)."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One measure of an order."""

    measured: float
    """What the order has."""
    perfect: float
    """What a perfect shuffle has in expectation."""

    @property
    def ratio(self) -> float:
        """Measured over perfect."""
        return self.measured / self.perfect


def rank_batches(order: Order, topology: Topology) -> Int64[np.ndarray, "steps ranks b"]:
    """Return the rows that every rank sees at every step of a whole epoch.

    Raises:
        ValueError: The order is shorter than one global batch.
    """
    everything = ((0, len(order.rows)),)
    steps = num_steps(everything, topology)
    if not steps:
        raise ValueError(
            f"{len(order.rows)} locations are fewer than one global batch of {topology.world_size} "
            f"ranks × batch_size {topology.batch_size}. Use a smaller batch, or fewer ranks."
        )
    size = topology.batch_size
    seen = np.empty((steps, topology.world_size, size), np.int64)
    for rank in range(topology.world_size):
        for worker in range(topology.streams):
            mine = stream(everything, topology, rank=rank, worker=worker)
            if length(mine):
                ((start, stop),) = mine
                seen[worker :: topology.streams, rank] = order.rows[start:stop].reshape(-1, size)
    return seen


def mean_distance(rows: Int64[np.ndarray, "m b"], *, locations: int) -> Score:
    """Return the mean |i - j| / N of neighbours in a batch, in the order of the shards.

    Two of N rows drawn without replacement lie (N + 1) / 3 apart on average.
    """
    return Score(
        measured=float(_distances(rows).mean()) / locations,
        perfect=(locations + 1) / (3 * locations),
    )


def median_distance(rows: Int64[np.ndarray, "m b"], *, locations: int) -> Score:
    """Return the median |i - j| / N of neighbours in a batch, in the order of the shards.

    P(|i - j| ≤ d) = d (2N - d - 1) / (N (N - 1)) for two of N rows without replacement; the median
    is where that passes a half, 1 - √½ of N for many.
    """
    n = locations
    perfect = ((2 * n - 1) - np.sqrt((2 * n - 1) ** 2 - 2 * n * (n - 1))) / 2
    return Score(measured=float(np.median(_distances(rows))) / n, perfect=float(perfect) / n)


def _distances(rows: Int64[np.ndarray, "m b"]) -> Int64[np.ndarray, "m b_minus_1"]:
    if rows.shape[1] < 2:
        raise ValueError("Batches of one location have no neighbours; use a batch of 2 or more.")
    return np.abs(np.diff(rows, axis=1))


def distinct_groups(rows: Int64[np.ndarray, "m b"], *, groups: Int[np.ndarray, " n"]) -> Score:
    """Return how many different groups a batch touches on average.

    Args:
        rows: The batches.
        groups: Group of every row: its shard, its chunk, its block.
    """
    ordered = np.sort(groups[rows], axis=1)
    changes = (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
    _, sizes = np.unique(groups, return_counts=True)
    return Score(
        measured=float(changes.mean()) + 1,
        perfect=expected_distinct(sizes, draws=rows.shape[1]),
    )


def expected_distinct(sizes: Int[np.ndarray, " groups"], *, draws: int) -> float:
    """Return how many groups a draw without replacement touches on average.

    A group of g among N is missed by B draws with probability C(N - g, B) / C(N, B), the product
    of 1 - g / (N - i) over i = 0 … B - 1.
    """
    total = int(sizes.sum())
    kinds, count = np.unique(sizes, return_counts=True)
    missed = 1 - kinds[:, None] / (total - np.arange(draws))  # (kinds, draws)
    return float(count @ (1 - np.prod(np.maximum(missed, 0.0), axis=1)))


def spread(rows: Int64[np.ndarray, "m b"], *, places: Float64[np.ndarray, "n 3"]) -> Score:
    """Return how far apart on Earth the locations of a batch lie.

    The mean squared straight-line distance between all pairs of a batch, in square kilometres, and
    that between all pairs of locations, which is what any two drawn at random have. Unlike the mean
    great-circle distance both have a closed form: 2 B / (B - 1) (1 - |mean|²) for B unit vectors.

    Args:
        rows: The batches.
        places: Unit vector of every row, see `unit_vectors`.
    """
    inside = _mean_squared_chord(places[rows].mean(axis=1), size=rows.shape[1])
    overall = _mean_squared_chord(places.mean(axis=0)[None], size=len(places))
    square_kilometres = EARTH_RADIUS_KILOMETRES**2
    return Score(
        measured=float(inside.mean()) * square_kilometres,
        perfect=float(overall[0]) * square_kilometres,
    )


def _mean_squared_chord(
    means: Float64[np.ndarray, "m 3"], *, size: int
) -> Float64[np.ndarray, " m"]:
    return 2 * size / (size - 1) * (1 - (means**2).sum(axis=1))


def unit_vectors(
    lon: Float64[np.ndarray, " n"], lat: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "n 3"]:
    """Return points on the unit sphere of longitudes and latitudes in degrees."""
    x, y = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)], axis=1)


def meet_again(
    first: Int64[np.ndarray, "m b"], second: Int64[np.ndarray, "k c"], *, locations: int
) -> Score:
    """Return the share of pairs of one epoch's batches that share a batch in another epoch too.

    For a perfect shuffle that is the share of all pairs that share a batch of the other epoch. Here
    more is worse: the ratio says how many times too often the same locations meet.
    """
    here, there = _batch_of(first, locations), _batch_of(second, locations)
    both = (here >= 0) & (there >= 0)
    cells = here[both] * len(second) + there[both]
    _, counts = np.unique(cells, return_counts=True)
    return Score(
        measured=_pairs(counts) / (len(first) * _pairs(np.array([first.shape[1]]))),
        perfect=len(second) * _pairs(np.array([second.shape[1]])) / _pairs(np.array([locations])),
    )


def _batch_of(rows: Int64[np.ndarray, "m b"], locations: int) -> Int64[np.ndarray, " n"]:
    """Return each location's batch, or -1 where the epoch leaves it out."""
    batch = np.full(locations, -1, np.int64)
    batch[rows.ravel()] = np.repeat(np.arange(len(rows)), rows.shape[1])
    return batch


def _pairs(counts: Int64[np.ndarray, " groups"]) -> float:
    return float((counts * (counts - 1) // 2).sum())
