"""The published conversion as a baseline: GeoTIFFs by rasterio, all bands at 10 m, into one LMDB.

Run: `python benchmarks/conversion.py TREE LMDB --workers 2`, Sentinel-2 L1C; prints as JSON how
many samples it did, in what time, and whose processor time. A sample is one patch of one date.

Written from its description (SSL4EO-S12's `ssl4eo_dataset.py`): a torch data set reads every band
with rasterio, resizes it to 264² with cv2 on the source's values and makes bytes of a date's stack
by `(x / 10000 * 255).astype(uint8)`, which wraps around above 10,000; a DataLoader's workers do
that, and the one process that consumes it pickles and writes rows, a commit each thousand. Torch's
and cv2's own threads are off, which helps it where workers fill the cores.
"""

import argparse
import json
import pickle
import resource
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import rasterio
import torch
from jaxtyping import UInt8, UInt16

from ssl4eo_stream.bands import S2C

PIXELS = 264
COMMIT_ROWS = 1000

Bands = UInt16[np.ndarray, "c h w"]


def read(date: Path) -> list[UInt16[np.ndarray, "h w"]]:
    """Return the bands of a date at their native size."""
    bands = []
    for name in S2C.names:
        with rasterio.open(date / f"{name}.tif") as file:
            bands.append(file.read(1))
    return bands


def resized(bands: list[UInt16[np.ndarray, "h w"]]) -> Bands:
    """Return bands at 10 m."""
    size = (PIXELS, PIXELS)
    return np.stack([cv2.resize(b, size, interpolation=cv2.INTER_LINEAR_EXACT) for b in bands])


def to_bytes(bands: Bands) -> UInt8[np.ndarray, "c h w"]:
    """Return bytes as the published LMDB has them."""
    with np.errstate(invalid="ignore"):  # what is out of range wraps around, as there
        return (bands / 10000.0 * 255).astype(np.uint8)


class Dates(torch.utils.data.Dataset):
    """Every location's dates, (4, 13, 264, 264) uint8."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "d c h w"]:
        dates = sorted(self._folders[index].iterdir())
        return np.stack([to_bytes(resized(read(date))) for date in dates])


def the_only(batch: list[UInt8[np.ndarray, "d c h w"]]) -> UInt8[np.ndarray, "d c h w"]:
    """Return the location of a batch of one."""
    return batch[0]


def convert(folders: list[Path], path: Path, *, workers: int) -> int:
    """Write a row for every location, and return how many dates that were.

    Args:
        folders: The locations' folders.
        path: The database's folder.
        workers: Processes that read; 0 does it in this one.
    """
    loader = torch.utils.data.DataLoader(
        Dates(folders), num_workers=workers, batch_size=1, collate_fn=the_only
    )
    dates = 0
    with lmdb.open(str(path), map_size=1 << 40) as database:
        rows = database.begin(write=True)
        for number, row in enumerate(loader):
            put(rows, number, row)
            dates += len(row)
            if (number + 1) % COMMIT_ROWS == 0:
                rows.commit()
                rows = database.begin(write=True)
        rows.commit()
        database.sync()
    return dates


def put(rows: lmdb.Transaction, number: int, row: UInt8[np.ndarray, "d c h w"]) -> None:
    """Write one location."""
    rows.put(str(number).encode(), pickle.dumps((row.tobytes(), row.shape)))


def main() -> None:
    """Convert and say how long it took, without the start of Python and torch."""

    def used() -> tuple[float, float]:
        own, others = (
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        main = own.ru_utime + own.ru_stime
        return main, main + others.ru_utime + others.ru_stime

    parser = argparse.ArgumentParser(description="The published conversion.")
    parser.add_argument("tree", type=Path, help="tree of GeoTIFFs")
    parser.add_argument("lmdb", type=Path, help="folder to write")
    parser.add_argument("--workers", type=int, default=6, help="0 and 1 work in this process")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    folders = sorted((options.tree / "s2c").iterdir())
    start, (main_before, before) = time.perf_counter(), used()
    dates = convert(folders, options.lmdb, workers=options.workers if options.workers > 1 else 0)
    seconds, (main_after, after) = time.perf_counter() - start, used()
    said = {"samples": dates, "seconds": seconds, "main_cpu_seconds": main_after - main_before,
            "cpu_seconds": after - before}  # fmt: skip
    print(json.dumps(said))


if __name__ == "__main__":
    main()
