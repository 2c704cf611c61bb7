"""The tars of SSL4EO-S12 v1.1 -> unfinished shards: which locations there are, and their offset."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.archive import Archive, TruncatedError, matching, split
from ssl4eo_stream.shard.gather import Gathering, encode_all
from ssl4eo_stream.shard.pack import Skipped
from ssl4eo_stream.shard.source import METADATA
from ssl4eo_stream.shard.unfinished import NO_DATE, Found, Place, read
from ssl4eo_stream.shard.v11 import REMEDY, SUFFIX, Sample, is_averaged, origin, parcels_of
from ssl4eo_stream.tars import find_tars

RAISED = 1000
"""What the processing baseline 04.00 adds to Sentinel-2's DN, and some releases to older ones."""
LOCATIONS_CHECKED = 16
DARK_SHARE = 0.02
"""Pixels below 1000 DN: under 1 % of any set with the offset, which then are damaged ones. Without
it 8 % of L1C in its cirrus band alone, and a third of L2A: shadow, water, vegetation in blue."""
logger = logging.getLogger(__name__)


def find(location: str) -> list[Archive]:
    """Find the tars.

    Args:
        location: Path or URL of a folder, of a tar, or of several by `*` or braces.

    Raises:
        SourceError: No tar has such a name.
        ShardError: The folder holds no tar, or can't be listed.
        StorageError: The storage can't be read.
    """
    folder, name = split(location)
    if "*" in name:
        sizes = dict(sorted(matching(folder, name).items()))
    else:
        tars = find_tars(location)
        folder, sizes = tars.url, tars.sizes
    return [Archive(folder=folder, name=name, pieces={name: n}) for name, n in sizes.items()]


@dataclass(kw_only=True)
class TarGatherer:
    """Files what one tar after another holds, each location once."""

    gathering: Gathering
    """How."""
    dn_offset: int
    """What Sentinel-2's DN are said to have been raised by: 0 or 1000."""
    _origins: dict[int, str] = field(default_factory=dict)
    _told: bool = False

    def gather(
        self,
        archive: Archive,
        *,
        executor: Executor | None,
        at_once: int,
        known: Found,
        wanted: Callable[[int], bool],
        stop_at_problems: bool,
        on_bytes: Callable[[int], None],
        lacks: list[Skipped],
    ) -> None:
        """File what a tar holds and unfinished shards don't.

        Args:
            archive: The tar.
            executor: Who encodes; this process if None.
            at_once: How many do.
            known: What unfinished shards held before the first tar.
            wanted: Location id -> whether to take it.
            stop_at_problems: Whether what can't be used ends it.
            on_bytes: Called with the number of bytes of the tar read so far.
            lacks: Gets the members that are left out because their id can't be read.

        Raises:
            TruncatedError: The tar ends early; what came before is filed.
            SourceError: A member can't be used, is a location that came before, or the DN have
                another offset than was said.
            StorageError: The tar can't be read, or an unfinished shard not written.
        """

        def refuse(member: str, error: SourceError) -> None:
            problem = f"{error} {REMEDY}"
            if stop_at_problems:
                raise SourceError(problem) from error
            logger.warning("%s It is left out.", error)
            key = PurePosixPath(member).name.removesuffix(SUFFIX)
            lacks.append(Skipped(id=key, reason=problem))

        new = (
            sample
            for sample in self._checked(archive, _samples(archive, refuse, on_bytes))
            if wanted(sample.id)
            and not self._is_filed(sample, known, stop_at_problems=stop_at_problems)
        )
        encode = partial(parcels_of, gathering=self.gathering, dn_offset=self.dn_offset)
        for parcels in encode_all(new, encode, executor=executor, at_once=at_once):
            for parcel in parcels:
                self.gathering.file(parcel, stop_at_problems=stop_at_problems)
                if not self._told and is_averaged(parcel):
                    self._told = True
                    logger.warning(
                        "%s: bands of 20 and 60 m are not their nearest neighbours on the 10 m "
                        "grid, so what shards hold of them are means over their pixels.",
                        archive.name,
                    )

    def _checked(self, archive: Archive, samples: Iterator[Sample]) -> Iterator[Sample]:
        """Yield samples once the first of them have shown the offset that was said."""
        first: list[Sample] = []
        cut: TruncatedError | None = None
        try:
            for sample in samples:
                first.append(sample)
                if len(first) == LOCATIONS_CHECKED:
                    break
        except TruncatedError as error:
            cut = error
        self._refuse_other_offset(archive, first)
        yield from first
        if cut:
            raise cut
        yield from samples

    def _refuse_other_offset(self, archive: Archive, samples: list[Sample]) -> None:
        """Compare the share of dark pixels with what the offset makes one expect."""
        if self.gathering.product.dtype == "float32":
            return
        dark, valid, usable = 0, 0, 0
        for sample in samples:
            try:
                pixels = sample.bands(self.gathering.product)
            except SourceError:
                continue  # told of when it is encoded
            dark += np.count_nonzero((pixels < RAISED) & (pixels != 0))
            valid += np.count_nonzero(pixels)
            usable += 1
        if not valid:
            return
        seems = 0 if dark / valid >= DARK_SHARE else RAISED
        if seems != self.dn_offset:
            raise SourceError(
                f"{archive.name}: {dark / valid:.1%} of the pixels of its first {usable} locations "
                f"are below {RAISED} DN, so it seems to be of a release whose DN are "
                f"{'raised by 1000' if seems else 'not raised'}, and --dn-offset {self.dn_offset} "
                f"was asked for. Say --dn-offset {seems}; sets that differ in this need builds of "
                "their own."
            )

    def _is_filed(self, sample: Sample, known: Found, *, stop_at_problems: bool) -> bool:
        """Return whether a location came before: in an earlier run, or in another member."""
        filed = known.get(sample.id, {})
        before = self._origins.setdefault(sample.id, self._origin(sample.id, filed) or sample.where)
        if before != sample.where:
            text = f"{sample.where} is location {location_key(sample.id)}, and so is {before}."
            if stop_at_problems:
                raise SourceError(
                    f"{text} Remove a tar, or take the first of such with --on-missing skip."
                )
            logger.warning("%s The first is taken.", text)
            return True
        return len(filed.keys() - {NO_DATE}) >= sample.dates

    def _origin(self, number: int, filed: dict[str, dict[str, Place]]) -> str | None:
        """Return the member that an unfinished shard has a location of."""
        path = self.gathering.path_of_shard(number // self.gathering.samples_per_shard)
        for files in filed.values():
            return origin(read(path, files[METADATA]))
        return None


def _samples(
    archive: Archive,
    refuse: Callable[[str, SourceError], None],
    on_bytes: Callable[[int], None],
) -> Iterator[Sample]:
    """Yield the locations of a tar; a member without a readable id is refused."""
    for name, data in archive.members(wanted=lambda name: name.endswith(SUFFIX), on_bytes=on_bytes):
        try:
            sample = Sample.of(data, where=f"{archive.name}: {name}")
        except SourceError as error:
            refuse(name, error)
        else:
            yield sample
