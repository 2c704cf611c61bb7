"""`ssl4eo-bench shuffle`: how well the order mixes, from manifest and index alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from jaxtyping import Float64, Int32, Int64

from ssl4eo_stream.machine import environment
from ssl4eo_stream.shard.manifest import INDEX
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.catalog import open_catalog
from ssl4eo_stream.stream.mixing import (
    Score,
    distinct_groups,
    mean_distance,
    median_distance,
    meet_again,
    rank_batches,
    spread,
    unit_vectors,
)
from ssl4eo_stream.stream.plan import BLOCK_CHUNKS, CHUNK_LOCATIONS, Order, Topology, order
from ssl4eo_stream.stream.select import Selection

POINT_BYTES = 21
"""A point as well-known binary: byte order, type, x, y (OGC 06-103r4)."""


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Measure how well the order of epochs mixes, against a perfect shuffle of all locations.

    Reads manifest and index, no pixels. A loader reads chunks of neighbours and mixes them within
    blocks of chunks, so that requests stay large and memory bounded; this says what that costs.
    Every line of the table is a number of the order, that of a perfect shuffle, and their ratio,
    once for a rank's batch and once for all ranks' batches of a step. What matters most is that the
    places of a batch lie as far apart on Earth as any others: a ratio near 1. Example:

        ssl4eo-bench shuffle s3://bucket/ssl4eo/s2c --batch-size 64 --world-size 8 --workers 8
    """

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """Folder of shards: s3://…, gs://…, az://…, http(s)://…, or a path."""
    epochs: int = 2
    """Epochs to look at; with 2 or more, also how often the same locations meet again."""
    batch_size: int = 64
    """Locations per batch of one rank."""
    world_size: int = 1
    """Ranks that train together."""
    workers: int = 8
    """Loader processes per rank, each of which reads a part of the order of its own."""
    seed: int = 0
    """The run's seed."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the result, with machine and versions, to this file."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("world_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, name)}; give {least} or more.")


def places_of(index: bytes) -> Float64[np.ndarray, "n 3"]:
    """Return the unit vector of every row of an index, from its points (longitude, latitude)."""
    table = pq.read_table(pa.BufferReader(index), columns=["geometry"])
    points = b"".join(table["geometry"].to_pylist())
    record = np.dtype([("head", "S5"), ("lon", "<f8"), ("lat", "<f8")])
    assert record.itemsize == POINT_BYTES
    values = np.frombuffer(points, record)
    return unit_vectors(values["lon"].astype(np.float64), values["lat"].astype(np.float64))


def scores(
    orders: Sequence[Order],
    topology: Topology,
    *,
    shards: Int32[np.ndarray, " n"],
    places: Float64[np.ndarray, "n 3"] | None,
) -> dict[str, Score]:
    """Return every measure, mean over the epochs: of a rank's batch and of a whole step.

    Args:
        orders: The order of each epoch.
        topology: Who reads.
        shards: Shard of every row.
        places: Unit vector of every row; without, nothing is said of places.
    """
    found: dict[str, list[Score]] = {}
    seen = [rank_batches(each, topology) for each in orders]
    for scope, batches in (
        ("batch", [each.reshape(-1, topology.batch_size) for each in seen]),
        ("step", [each.reshape(len(each), -1) for each in seen]),
    ):
        if scope == "step" and topology.world_size == 1:
            continue
        for rows, epoch_order in zip(batches, orders, strict=True):
            for name, score in _of_epoch(rows, epoch_order, shards=shards, places=places).items():
                found.setdefault(f"{scope}: {name}", []).append(score)
        for first, second in pairwise(batches):
            score = meet_again(first, second, locations=len(shards))
            found.setdefault(f"{scope}: pairs that meet again next epoch", []).append(score)
    return {
        name: Score(
            measured=fmean(score.measured for score in each),
            perfect=fmean(score.perfect for score in each),
        )
        for name, each in found.items()
    }


def _of_epoch(
    rows: Int64[np.ndarray, "m b"],
    epoch_order: Order,
    *,
    shards: Int32[np.ndarray, " n"],
    places: Float64[np.ndarray, "n 3"] | None,
) -> dict[str, Score]:
    locations = len(shards)
    by_row = np.argsort(epoch_order.rows)
    found = {
        "mean distance in the shards": mean_distance(rows, locations=locations),
        "median distance in the shards": median_distance(rows, locations=locations),
        "distinct shards": distinct_groups(rows, groups=shards),
        "distinct chunks": distinct_groups(rows, groups=epoch_order.chunks[by_row]),
        "distinct blocks": distinct_groups(rows, groups=epoch_order.blocks[by_row]),
    }
    if places is not None:
        found["mean squared distance on Earth, km²"] = spread(rows, places=places)
    return found


def measure(options: Shuffle) -> dict[str, Any]:
    """Compute the orders and compare them with a perfect shuffle.

    Raises:
        StorageError: Manifest or index cannot be read.
        ShardError: It is not a finished data set.
        ValueError: An option does not fit the data.
    """
    store = Store.open(options.url)
    catalog = open_catalog((store,), (options.url,), Selection())
    places = places_of(store.read(INDEX))
    apart = bool((places != places[0]).any())
    topology = Topology(
        world_size=options.world_size, workers=options.workers, batch_size=options.batch_size
    )
    orders = [
        order(catalog.shards, seed=options.seed, epoch=epoch) for epoch in range(options.epochs)
    ]
    seen = [np.sort(rank_batches(each, topology), axis=None) for each in orders]
    found = scores(orders, topology, shards=catalog.shards, places=places if apart else None)
    return {
        "url": store.url,
        "locations": len(catalog),
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "world_size": options.world_size,
        "workers": options.workers,
        "chunk_locations": CHUNK_LOCATIONS,
        "block_chunks": BLOCK_CHUNKS,
        "seen_twice_in_an_epoch": int(max((rows[1:] == rows[:-1]).sum() for rows in seen)),
        "left_out_of_an_epoch": len(catalog) - len(seen[0]),
        "scores": {
            name: {
                "measured": float(f"{score.measured:.6g}"),
                "perfect": float(f"{score.perfect:.6g}"),
                "ratio": float(f"{score.ratio:.4g}"),
            }
            for name, score in found.items()
        },
        **environment(),
    }


def summary(result: Mapping[str, Any]) -> str:
    """Return the result as a table, and a line that sums it up."""
    width = max(map(len, result["scores"]))
    lines = [f"{'':{width}}  {'here':>12}  {'perfect':>12}  {'ratio':>8}"]
    for name, score in result["scores"].items():
        lines.append(
            f"{name:{width}}  {score['measured']:12.5g}  {score['perfect']:12.5g}  "
            f"{score['ratio']:8.4g}"
        )
    lines.append(
        f"{result['locations']} locations: an epoch shows {result['seen_twice_in_an_epoch']} twice "
        f"and leaves {result['left_out_of_an_epoch']} out; chunks of {result['chunk_locations']}, "
        f"blocks of {result['block_chunks']} chunks."
    )
    return "\n".join(lines)
