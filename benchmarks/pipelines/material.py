"""The patches that every pipeline loads: four dates for each location, in a tree as published."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import rasterio
from jaxtyping import UInt8

from ssl4eo_stream.bands import S2C
from ssl4eo_stream.sample import Acquisition
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.shard.source import list_ids, product_folder, read_location, read_patch

DATES = 4
"""Dates per location, as published."""
PIXELS = 264
"""Side of a patch at 10 m."""
SAMPLES_PER_SHARD = 64
QUALITY = 75
"""JPEG quality wherever formats are compared."""
COMPRESSION = ("compress", "predictor")
"""What is left out of a file's profile to have it as published."""

Planes = list[UInt8[np.ndarray, "_ _"]]


def upsampled(planes: Planes) -> UInt8[np.ndarray, "c 264 264"]:
    """Return one date's bands at 10 m, as the published conversion resamples them."""
    return np.stack([
        cv2.resize(plane, (PIXELS, PIXELS), interpolation=cv2.INTER_LINEAR_EXACT)
        for plane in planes
    ])  # fmt: skip


def jpegs_of(planes: Planes) -> list[bytes]:
    """Return one date's bands as JPEGs of their own, by the encoder and quality of the shards."""
    return [bytes(imagecodecs.jpeg_encode(plane, level=QUALITY)) for plane in planes]


@dataclass(frozen=True, kw_only=True)
class Material:
    """A tree grown from a small one, and folders for what pipelines make of it.

    Location k shows the two dates of the k-th of the small tree (from its first again after its
    last), then those of another, which is a different one each time round.
    """

    source: Path
    """The small tree: Sentinel-2 L1C, at least two dates per location."""
    root: Path
    """Where everything is written."""
    locations: int
    """How many to grow."""

    @cached_property
    def acquisitions(self) -> list[Acquisition]:
        """The first two dates of every location of the small tree."""
        folder = product_folder(self.source, product="s2c")
        return [
            date
            for _, name in sorted(list_ids(folder).items())
            for date in read_location(folder / name, product=S2C).acquisitions[:2]
        ]

    @cached_property
    def patches(self) -> list[Planes]:
        """The same in bytes at native size; `dates_of` counts in them."""
        read = (read_patch(date, product=S2C) for date in self.acquisitions)
        return [
            [to_bytes(v, band=b) for v, b in zip(patch.bands, S2C.bands, strict=True)]
            for patch in read
        ]

    def dates_of(self, location: int) -> tuple[int, int, int, int]:
        """Return which patches a location's four dates are."""
        places = len(self.acquisitions) // 2
        here = location % places
        there = (here + 1 + location // places) % places
        return 2 * here, 2 * here + 1, 2 * there, 2 * there + 1

    def images(self) -> Iterator[UInt8[np.ndarray, "4 c 264 264"]]:
        """Yield every location's dates at 10 m."""
        fine = [upsampled(planes) for planes in self.patches]
        for location in range(self.locations):
            yield np.stack([fine[date] for date in self.dates_of(location)])

    @cached_property
    def tree(self) -> Path:
        """The grown tree, made on first use: files uncompressed as published, shared by links."""
        tree, files = self.root / "tree", self.root / "files"
        if tree.exists():
            return tree
        for number, date in enumerate(self.acquisitions):
            copy = files / str(number)
            copy.mkdir(parents=True)
            for path in date.bands:
                with rasterio.open(path) as there:
                    profile = {k: v for k, v in there.profile.items() if k not in COMPRESSION}
                    with rasterio.open(copy / path.name, "w", **profile) as here:
                        here.write(there.read())
        for location in range(self.locations):
            place = tree / "s2c" / f"{location:07d}"
            place.mkdir(parents=True)
            for date, patch in enumerate(self.dates_of(location)):
                day = f"2020{3 * date + 1:02d}01T100000"
                (place / f"{day}_{day}_T31TFJ").symlink_to((files / str(patch)).resolve())
        return tree

    def shards(self, codec: str) -> Path:
        """Return the grown tree's shards, made on first use."""
        dest = self.root / f"shards-{codec.replace(':', '-')}"
        if not dest.exists():
            build(
                self.tree, dest, product="s2c", codec=codec,
                samples_per_shard=SAMPLES_PER_SHARD, workers=0,
            )  # fmt: skip
        return dest
