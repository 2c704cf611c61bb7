"""Which part of the data an epoch goes over, decided before any download: bands and places."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from ssl4eo_stream.sample import location_key, read_ids
from ssl4eo_stream.shard.manifest import Manifest

Unit = Literal["location", "patch"]
OnMismatch = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which part of the data an epoch goes over.

    Raises:
        ValueError: A field is out of its range.
    """

    bands: tuple[str, ...] | None = None
    """Bands to read, for example B4 B3 B2; all if none. With several products a name that two of
    them have is written `s2a:B4`. Channels are grouped by product, in the order of the URLs, and
    within a product in this order."""
    locations: Path | tuple[int, ...] | None = None
    """Location ids, or a CSV file with a column `id` or an id a line; all if none."""
    fraction: float = 1.0
    """Part of the locations to take, 0-1: the same ones in every run, and a smaller part lies
    within a larger one."""
    unit: Unit = "location"
    """What one sample is: a `location` with all its dates, of which a method's views show some, or
    a `patch`, one date of one location, so that an epoch shows every date once."""
    on_mismatch: OnMismatch = "error"
    """What to do about locations or dates that not all products have: stop at the start, or leave
    them out and say how many."""
    sensor_drop: float = 0.0
    """With several products, the chance that a view shows one of them alone, each as likely, and
    bytes of 0 for the others (the paper's table VIII: 0.5). What no view shows is not fetched."""

    def __post_init__(self) -> None:
        if not 0 <= self.sensor_drop <= 1:
            raise ValueError(f"sensor_drop is {self.sensor_drop}; it must be between 0 and 1.")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it must be over 0 and at most 1.")
        if self.bands is not None and not self.bands:
            raise ValueError("bands is empty; name at least one, or leave it out for all.")


def channels_of(
    manifests: Sequence[Manifest], bands: tuple[str, ...] | None
) -> list[tuple[int, ...]]:
    """Return the positions of the wanted bands in every product."""
    if bands is None:
        return [tuple(range(len(manifest.bands))) for manifest in manifests]
    chosen: dict[str, list[int]] = {manifest.product: [] for manifest in manifests}
    for text in bands:
        product, _, name = text.rpartition(":")
        owners = [
            manifest
            for manifest in manifests
            if name in manifest.bands and product in ("", manifest.product)
        ]
        if len(owners) != 1:
            has = "; ".join(f"{m.product} has {', '.join(m.bands)}" for m in manifests)
            why = "is in several products: write PRODUCT:BAND" if owners else "is not there"
            raise ValueError(f"Band {text} {why}. {has}.")
        position = owners[0].bands.index(name)
        if position in chosen[owners[0].product]:
            raise ValueError(f"Band {text} is named twice.")
        chosen[owners[0].product].append(position)
    return [tuple(chosen[manifest.product]) for manifest in manifests]


def wanted(ids: Int64[np.ndarray, " n"], selection: Selection) -> Bool[np.ndarray, " n"]:
    """Return which locations the selection takes."""
    taken = np.ones(len(ids), bool)
    if selection.locations is not None:
        asked = selection.locations
        listed = read_ids(asked) if isinstance(asked, Path) else set(asked)
        taken = np.isin(ids, np.fromiter(listed, np.int64, len(listed)))
        if missing := listed - set(ids[taken].tolist()):
            raise ValueError(
                f"{len(missing)} of the {len(listed)} locations asked for are not in the shards, "
                f"for example {location_key(min(missing))}. Take them off the list."
            )
    if selection.fraction < 1:
        take = round(selection.fraction * int(taken.sum()))
        # A fixed mixing of the id (Steele et al. 2014, SplitMix64), not the run's seed.
        mixed = _splitmix(ids.astype(np.uint64))
        candidates = np.flatnonzero(taken)
        chosen = candidates[np.argsort(mixed[candidates], kind="stable")[:take]]
        taken = np.zeros(len(ids), bool)
        taken[chosen] = True
    return taken


def _splitmix(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
