"""Where the time of a patch goes on its way from an archive into a shard, on one core.

Every stage is run alone over the same patches, with the package's own functions, in this process;
`archive.py` calls it. Reading and taking apart the tar is timed on a plain tar, inflating is what
the same takes longer from a `.tar.gz`. A stage's share is of their sum.
"""

import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import conversion
import lmdb
import numpy as np
from archive_material import DATES, Grown, Layout

from ssl4eo_stream.bands import S2C
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.archive import Archive, RawParcel
from ssl4eo_stream.shard.destination import Destination
from ssl4eo_stream.shard.gather import GatheredLocations, Gathering
from ssl4eo_stream.shard.locations import encode
from ssl4eo_stream.shard.pack import ShardTask, pack_shard
from ssl4eo_stream.shard.parts import PARTS
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.shard.room import look_up
from ssl4eo_stream.shard.source import Patch, patch_of
from ssl4eo_stream.shard.unfinished import append, scan

OURS = (
    "read and take apart the tar", "inflate", "read TIFFs", "quantise", "encode",
    "file in an unfinished shard", "put in order and write",
)  # fmt: skip
PUBLISHED = ("read TIFFs with rasterio", "resize to 264²", "quantise", "pickle and put into LMDB")
"""The stages, in their order."""


class Laps:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def parcels_of(archive: Path) -> list[RawParcel]:
    """Return everything that an archive holds."""
    return list(Archive.find(str(archive)).parcels(wanted=lambda *_: True))


def ours(grown: Grown, scratch: Path, *, codec: Codec) -> dict[str, float]:
    """Return the microseconds of a patch in every stage of a build."""
    plain, zipped = grown.archive("id", zipped=False), grown.archive("id")
    laps = Laps()
    with laps.of("plain"):
        parcels = parcels_of(plain)
    with laps.of("zipped"):
        parcels_of(zipped)
    names = [f"{band}.tif" for band in S2C.names]
    with laps.of("read TIFFs"):
        patches = [
            patch_of([(name, look_up(parcel.files[name])) for name in names], product=S2C)
            for parcel in parcels
        ]
    with laps.of("quantise"):
        for patch in patches:
            quantise(patch)
    with laps.of("both"):
        for patch in patches:
            encode(patch, product=S2C, codec=codec)
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / PARTS).mkdir(parents=True)
    gathering = Gathering(
        folder=scratch / PARTS, product=S2C, codec=codec, samples_per_shard=grown.locations,
        archive=zipped.name,
    )  # fmt: skip
    ready = [gathering.encoded(parcel) for parcel in parcels]
    unfinished = gathering.path_of_shard(0)
    with laps.of("file in an unfinished shard"):
        for parcel in ready:
            append(unfinished, parcel)
    with laps.of("put in order and write"):
        numbers = tuple(sorted(scan(unfinished)))
        found = GatheredLocations(path=unfinished, numbers=numbers, gathering=gathering)
        task = ShardTask(
            number=0,
            locations=found,
            dest=Destination.at(scratch),
            product="s2c",
            on_missing="error",
        )
        pack_shard(task, stopped=lambda: False)
    shutil.rmtree(scratch)
    spent = laps.seconds
    spent["read and take apart the tar"] = spent.pop("plain")
    spent["inflate"] = spent.pop("zipped") - spent["read and take apart the tar"]
    spent["encode"] = spent.pop("both") - spent["quantise"]
    return {stage: spent[stage] * 1e6 / len(parcels) for stage in OURS}


def quantise(patch: Patch) -> None:
    """Make bytes of a patch's bands, as `encode` does first."""
    for pixels, band in zip(patch.bands, S2C.bands, strict=True):
        to_bytes(pixels, band=band)


def published(grown: Grown, scratch: Path) -> dict[str, float]:
    """Return the microseconds of a patch in every stage of the published conversion."""
    laps = Laps()
    shutil.rmtree(scratch, ignore_errors=True)
    folders = [grown.tree / "s2c" / name for name in grown.names]
    with lmdb.open(str(scratch), map_size=1 << 40) as database:
        rows = database.begin(write=True)
        for number, folder in enumerate(folders):
            row = []
            for date in sorted(folder.iterdir()):
                with laps.of(PUBLISHED[0]):
                    bands = conversion.read(date)
                with laps.of(PUBLISHED[1]):
                    fine = conversion.resized(bands)
                with laps.of(PUBLISHED[2]):
                    row.append(conversion.to_bytes(fine))
            with laps.of(PUBLISHED[3]):
                conversion.put(rows, number, np.stack(row))
        with laps.of(PUBLISHED[3]):
            rows.commit()
            database.sync()
    shutil.rmtree(scratch)
    return {stage: laps.seconds[stage] * 1e6 / (len(folders) * DATES) for stage in PUBLISHED}


def lines(
    layout: Layout, approach: str, repeats: Sequence[Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Return a line of the table for every stage: medians over repeats, and shares of their sum."""
    medians = {stage: statistics.median(each[stage] for each in repeats) for stage in repeats[0]}
    whole = sum(medians.values())
    found = [
        {"files": layout, "approach": approach, "stage": stage, "µs a patch": round(value),
         "share %": round(100 * value / whole, 1)}
        for stage, value in medians.items()
    ]  # fmt: skip
    total = {"files": layout, "approach": approach, "stage": "sum", "µs a patch": round(whole)}
    return [*found, total]
