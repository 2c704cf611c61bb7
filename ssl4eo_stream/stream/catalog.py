"""What an epoch goes over: one or several products, joined by key and date rank, or a part of them.

Everything is decided from manifests and indexes, before a pixel is read: what is not asked for is
neither fetched nor decoded.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from ssl4eo_stream.bands import PRODUCTS, Band
from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.manifest import Index, Manifest, read_data_set
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.select import Selection, channels_of, wanted

logger = logging.getLogger(__name__)

EXAMPLES = 5
"""Ids that a message names."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One product's folder of shards, as far as it is read."""

    url: str
    """Where it lies, credentials and all: never shown."""
    manifest: Manifest
    """What the folder holds."""
    channels: tuple[int, ...]
    """Positions of the bands to read in the manifest's order."""

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands to read."""
        product = PRODUCTS[self.manifest.product]
        return tuple(product.bands[channel] for channel in self.channels)

    @property
    def last_page(self) -> int:
        """The last page of a member that holds any of the bands; what lies behind isn't read."""
        names = {self.manifest.bands[channel] for channel in self.channels}
        return max(i for i, page in enumerate(self.manifest.pages) if names & set(page))


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The n samples of an epoch over p products, in the order of the first product's shards."""

    sources: tuple[Source, ...]
    """The products."""
    indexes: tuple[Index, ...]
    """Their indexes."""
    rows: Int64[np.ndarray, "n p"]
    """Each sample's row in every index."""
    num_dates: Int64[np.ndarray, " n"]
    """Dates that a sample offers to its views: those that all products have, or 1 for a patch."""
    first_date: Int64[np.ndarray, " n"]
    """The first of them: 0, or the patch's own."""
    left_out: dict[str, int]
    """What was left out by rule: `locations` that some product lacks, and their `dates`."""
    selection: Selection
    """How it was chosen."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def ids(self) -> Int64[np.ndarray, " n"]:
        """Location ids."""
        return self.indexes[0].ids[self.rows[:, 0]]

    @cached_property
    def shards(self) -> Int32[np.ndarray, " n"]:
        """Shard numbers in the first product."""
        return self.indexes[0].shards[self.rows[:, 0]]

    @cached_property
    def locations(self) -> Int64[np.ndarray, " n"]:
        """Location of each sample, counted up from 0."""
        rows = self.rows[:, 0]
        return np.cumsum(np.r_[False, rows[1:] != rows[:-1]][: len(rows)], dtype=np.int64)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a state to mean the same samples: JSON-able."""
        chosen = hashlib.sha256()
        for values in (self.ids, self.num_dates, self.first_date):
            chosen.update(np.ascontiguousarray(values, "<i8").tobytes())
        return {
            "manifest": [source.manifest.hash for source in self.sources],
            "bands": [list(source.channels) for source in self.sources],
            "samples": chosen.hexdigest(),
        }


def open_catalog(stores: Sequence[Store], urls: Sequence[str], selection: Selection) -> Catalog:
    """Read manifests and indexes, and join them.

    Args:
        stores: One folder of shards per product.
        urls: Their URLs as given, for workers to open.
        selection: Which part to take.

    Raises:
        StorageError: A folder cannot be read.
        ShardError: One is not a finished data set, or products do not belong together.
        ValueError: The selection asks for what is not there.
    """
    read = [read_data_set(store) for store in stores]
    manifests, indexes = [manifest for manifest, _ in read], tuple(index for _, index in read)
    names = [manifest.product for manifest in manifests]
    if len(set(names)) < len(names):
        raise ValueError(f"Products are {', '.join(names)}; each can be given once.")
    sources = tuple(
        Source(url=url, manifest=manifest, channels=channels)
        for url, manifest, channels in zip(
            urls, manifests, channels_of(manifests, selection.bands), strict=True
        )
    )
    used = [i for i, source in enumerate(sources) if source.channels]
    sources, indexes = tuple(sources[i] for i in used), tuple(indexes[i] for i in used)
    rows, left_out = _join(sources, indexes, selection)
    rows = rows[wanted(indexes[0].ids[rows[:, 0]], selection)]
    counts = np.stack(
        [np.diff(index.first_date)[rows[:, p]] for p, index in enumerate(indexes)], axis=1
    )
    num_dates = counts.min(axis=1)
    if uneven := int((counts != num_dates[:, None]).any(axis=1).sum()):
        _mismatch(
            f"{uneven} locations have not the same number of dates in {' and '.join(names)}",
            indexes[0].ids[rows[:, 0]][(counts != num_dates[:, None]).any(axis=1)],
            selection,
            consequence="the first dates that all have are used",
        )
        left_out["dates"] = int((counts - num_dates[:, None]).sum())
    first_date = np.zeros(len(rows), np.int64)
    if selection.unit == "patch":
        rows = np.repeat(rows, num_dates, axis=0)
        first_date = np.arange(len(rows)) - np.repeat(np.cumsum(num_dates) - num_dates, num_dates)
        num_dates = np.ones(len(rows), np.int64)
    return Catalog(
        sources=sources, indexes=indexes, rows=rows, num_dates=num_dates, first_date=first_date,
        left_out=left_out, selection=selection,
    )  # fmt: skip


def _join(
    sources: Sequence[Source], indexes: Sequence[Index], selection: Selection
) -> tuple[Int64[np.ndarray, "n p"], dict[str, int]]:
    """Return the rows of the locations that all products have, and how many locations had to go."""
    everywhere = indexes[0].ids
    for index in indexes[1:]:
        everywhere = everywhere[np.isin(everywhere, index.ids)]
    left_out = {"locations": 0, "dates": 0}
    columns = []
    for source, index in zip(sources, indexes, strict=True):
        if len(everywhere) < len(index):
            alone = index.ids[~np.isin(index.ids, everywhere)]
            left_out["locations"] += len(alone)
            _mismatch(
                f"{len(alone)} locations are in {source.manifest.product} but not in every product",
                alone, selection, consequence="they are left out",
            )  # fmt: skip
        by_id = np.argsort(index.ids, kind="stable")
        columns.append(by_id[np.searchsorted(index.ids[by_id], everywhere)])
    return np.stack(columns, axis=1).astype(np.int64), left_out


def _mismatch(
    what: str, ids: Int64[np.ndarray, " m"], selection: Selection, *, consequence: str
) -> None:
    some = ", ".join(location_key(int(each)) for each in ids[:EXAMPLES])
    some += ", …" if len(ids) > EXAMPLES else ""
    if selection.on_mismatch == "error":
        raise ShardError(
            f"{what}: {some}. Build what is missing, or give on_mismatch='skip' "
            f"(--select.on-mismatch skip): {consequence} then."
        )
    logger.warning("%s: %s; %s.", what, some, consequence)


def as_urls(url: str | Sequence[str]) -> tuple[str, ...]:
    """Return one URL or several as a tuple."""
    urls = (url,) if isinstance(url, str) else tuple(url)
    if not urls:
        raise ValueError("No URL of shards was given.")
    return urls
