"""What is missing in shards: dates, times, ids, locations that another product has."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.build import SKIPPED
from ssl4eo_stream.shard.show import Holding

DATES = 4
"""Dates that a location of SSL4EO-S12 has."""
MOST = 100
"""Examples named of each thing that is missing."""


@dataclass(frozen=True, kw_only=True)
class Lack:
    """One kind of thing that is missing."""

    text: str
    """What, and how many."""
    examples: tuple[str, ...] = ()
    """Which, `MOST` of them."""
    more: int = 0
    """Examples not named."""

    @classmethod
    def of(cls, text: str, examples: Sequence[str] = ()) -> "Lack":
        """Name the first examples."""
        return cls(text=text, examples=tuple(examples[:MOST]), more=max(0, len(examples) - MOST))


def lacks(holding: Holding, others: Sequence[Holding] = ()) -> list[Lack]:
    """List what is missing in a product's shards; nothing if they are whole.

    Args:
        holding: The product.
        others: Further products of the same locations.

    Raises:
        ShardError: Its skipped.jsonl is not the list that a build writes.
    """
    ids, dates = holding.index.ids, np.diff(holding.index.first_date)
    found = []
    for number in range(DATES):
        if (few := ids[dates == number]).size:
            text = f"{count(few.size, 'location')} with {number} of {DATES} dates"
            found.append(Lack.of(text, id_ranges(few)))
    places = holding.places
    if unknown := len(places.times) - len(places.known_times):
        found.append(Lack.of(f"{count(unknown, 'patch', 'patches')} without a time"))
    unknown = len(places.cloud_percent) - len(places.known_cloud)
    if unknown and holding.manifest.product != "s1":
        found.append(Lack.of(f"{count(unknown, 'patch', 'patches')} without a cloud cover"))
    if (gone := gaps(ids))[0]:
        text = f"{count(gone[0], 'id')} missing between the first and the last"
        found.append(Lack.of(text, gone[1]))
    for other in others:
        if (lacking := np.setdiff1d(other.index.ids, ids)).size:
            text = f"{count(lacking.size, 'location')} of {other.product.title} not in here"
            found.append(Lack.of(text, id_ranges(lacking)))
    if skipped := _skipped(holding):
        text = f"{count(len(skipped), 'location')} skipped when the shards were built"
        found.append(Lack.of(text, skipped))
    return found


def count(number: int, one: str, many: str = "") -> str:
    """Return a number of things in words: `1 patch`, `2,000 patches`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _skipped(holding: Holding) -> list[str]:
    """What the build's report says, where the shards lie on this machine."""
    folder = holding.store.folder
    if folder is None or not (folder / SKIPPED).exists():
        return []
    try:
        lines = map(json.loads, (folder / SKIPPED).read_text(encoding="utf-8").splitlines())
        return [f"{location_key(int(line['id']))}: {line['reason']}" for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{folder / SKIPPED} is not the list of a build: {error!r}. Remove it, or run "
            "ssl4eo-shard build again."
        ) from error


def id_ranges(ids: Int64[np.ndarray, " n"]) -> list[str]:
    """Spell ids in order, neighbours as one: `0000003`, `0000010–0000017`."""
    ids = np.sort(ids)
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1) if ids.size else []
    return [_range(int(run[0]), int(run[-1])) for run in runs]


def gaps(ids: Int64[np.ndarray, " n"]) -> tuple[int, list[str]]:
    """Return how many ids are not there between the lowest and the highest, and which, spelt."""
    ids = np.sort(ids)
    before = np.flatnonzero(np.diff(ids) > 1)
    firsts, lasts = ids[before] + 1, ids[before + 1] - 1
    text = [_range(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]
    return int((lasts - firsts + 1).sum()), text


def _range(first: int, last: int) -> str:
    return location_key(first) + (f"–{location_key(last)}" if last > first else "")
