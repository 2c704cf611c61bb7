"""Write a small tree of invented GeoTIFFs in the layout of SSL4EO-S12, for tests and first steps.

Run: `python tools/make_sample.py sample --locations 64 --products s1 s2a s2c --workers 2`

`DEST/{s1,s2a,s2c}/0000000/<acquisition>/{BAND}.tif` with metadata.json beside the bands, as
published: names, grids, types, tags, uncompressed. Places lie near real cities, dates on real
orbits (`sample_acquisitions.py`); the pixels are made up (`sample_scene.py`), and every
metadata.json says `"synthetic": true`. The same settings give the same bytes, whatever the number
of processes, and a product or location alone has the same bytes as among others.
"""

import json
import multiprocessing
import os
import struct
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Num
from sample_acquisitions import MAX_DATES, Place, find_place, metadata, plan_dates
from sample_scene import make_scene, make_sky, sentinel1, sentinel2
from tqdm import tqdm

from ssl4eo_stream import geotiff
from ssl4eo_stream.bands import PRODUCTS, ProductName

MARKER = "sample.json"
"""Names the settings of a sample; written first, and again when the sample is complete."""
VERSION = 1
"""Raised when the same settings come to give other bytes."""
STRIP_BYTES = 8192
"""Most bytes in a strip of the published files, GDAL's default."""
GEO_KEYS = (
    1, 1, 0, 7, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326, 2049, 34737, 7, 0,
    2054, 0, 1, 9102, 2057, 34736, 1, 1, 2059, 34736, 1, 0,
)  # fmt: skip
"""GeoKeyDirectory of the published files: EPSG:4326, pixel is area."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a sample holds."""

    locations: int = 64
    """Locations, with ids from 0."""
    dates: int = 4
    """Dates of each location in each product, about 90 days apart."""
    products: tuple[ProductName, ...] = ("s1", "s2a", "s2c")
    """Which products."""
    seed: int = 0
    """Another seed gives other places, dates and pixels."""

    def __post_init__(self) -> None:
        if self.locations < 1 or self.seed < 0 or not self.products:
            raise ValueError(
                f"locations {self.locations}, seed {self.seed}, products {self.products}: "
                "give one location and product or more, and a seed from 0."
            )
        if not 1 <= self.dates <= MAX_DATES:
            raise ValueError(
                f"dates is {self.dates}; the data set's span has room for 1 to {MAX_DATES}, "
                "a quarter apart."
            )

    @property
    def num_files(self) -> int:
        """GeoTIFFs and metadata files of the sample."""
        each = sum(len(PRODUCTS[name].bands) + 1 for name in set(self.products))
        return self.locations * self.dates * each

    @property
    def num_bytes(self) -> int:
        """Size of all pixels; headers and metadata add about 1 %."""
        each = sum(
            band.pixels**2 * np.dtype(PRODUCTS[name].dtype).itemsize
            for name in set(self.products)
            for band in PRODUCTS[name].bands
        )
        return self.locations * self.dates * each

    def to_json(self) -> dict[str, Any]:
        """Return what the marker says."""
        products = sorted(set(self.products))
        return {"synthetic": True, "version": VERSION, **asdict(self), "products": products}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a small tree of invented GeoTIFFs, laid out as SSL4EO-S12 is published."""

    dest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[DEST]")] = Path("sample")
    """Folder to fill; made if missing. If it holds this very sample already, nothing is done."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = Settings()
    """What to write."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = os.cpu_count() or 1
    """Processes; 1 works in this one."""
    dry_run: bool = False
    """Say what would be written, and write nothing."""


def write_sample(
    dest: Path,
    *,
    locations: int = 64,
    dates: int = 4,
    products: Sequence[ProductName] = ("s1", "s2a", "s2c"),
    seed: int = 0,
    workers: int = 1,
    progress: bool = False,
) -> bool:
    """Write a sample, or keep a complete one of the same settings; one cut short is made again.

    Args:
        dest: Folder to fill.
        locations: How many; their ids begin with 0.
        dates: How many for each location and product.
        products: Which ones.
        seed: Of everything random.
        workers: Processes; 1 works in this one.
        progress: Show a bar on stderr.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: A setting is out of its range.
        FileExistsError: `dest` holds something else.
    """
    settings = Settings(locations=locations, dates=dates, products=tuple(products), seed=seed)
    if is_complete(dest, settings=settings):
        return False
    dest.mkdir(parents=True, exist_ok=True)
    _mark(dest, settings=settings, complete=False)
    work = partial(write_location, dest=dest, settings=settings)
    with tqdm(total=locations, unit="location", disable=not progress, file=sys.stderr) as bar:
        if workers > 1:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, locations), mp_context=context) as pool:
                for _ in pool.map(work, range(locations)):
                    bar.update()
        else:
            for location in range(locations):
                work(location)
                bar.update()
    _mark(dest, settings=settings, complete=True)
    return True


def is_complete(dest: Path, *, settings: Settings) -> bool:
    """Return whether `dest` holds this sample whole; False where it may be written.

    Raises:
        FileExistsError: It holds another sample, or something that is none.
    """
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return False
    marker = dest / MARKER
    if not marker.is_file():
        raise FileExistsError(f"{dest} is not empty and holds no {MARKER}. Give another DEST.")
    found = json.loads(marker.read_text())
    complete = found.pop("complete")
    if found != (wanted := settings.to_json()):
        raise FileExistsError(
            f"{dest} holds another sample: {found} where {wanted} is asked for. "
            "Give another DEST, or remove this one."
        )
    return complete


def _mark(dest: Path, *, settings: Settings, complete: bool) -> None:
    text = json.dumps({**settings.to_json(), "complete": complete}, indent=1) + "\n"
    (dest / MARKER).write_text(text)


def write_location(location: int, *, dest: Path, settings: Settings) -> None:
    """Write all products and dates of one location."""
    seed, radar_wanted = settings.seed, "s1" in settings.products
    optical_wanted = [name for name in ("s2a", "s2c") if name in settings.products]
    place = find_place(seed=seed, location=location)
    scene = make_scene(seed=seed, location=location, north=place.lat > 0)
    plan = plan_dates(seed=seed, location=location, place=place, count=settings.dates)
    for date, (radar, optical) in enumerate(plan):
        images = []
        if radar_wanted:
            rng = np.random.default_rng([6, seed, location, date])
            day = radar.time.timetuple().tm_yday
            images.append(("s1", radar, sentinel1(scene, day=day, rng=rng), 0.0))
        if optical_wanted:
            rng = np.random.default_rng([7, seed, location, date])
            sky = make_sky(seed=seed, location=location, date=date)
            day = optical.time.timetuple().tm_yday
            bands = sentinel2(scene, sky=sky, day=day, rng=rng)
            # The scene around the patch has fewer clouds; the data set took those below 10 %.
            cloud_percent = min(9.9, 0.2 + 60 * float(sky.cloud.clip(0, 1).mean()))
            images += [(name, optical, bands[name], cloud_percent) for name in optical_wanted]
        for name, acquisition, pixels, cloud_percent in images:
            folder = dest / name / f"{location:07d}" / acquisition.name
            folder.mkdir(parents=True, exist_ok=True)
            for band, values in zip(PRODUCTS[name].bands, pixels, strict=True):
                write_band(folder / f"{band.name}.tif", values, place=place)
            fields = metadata(acquisition, product=name, place=place, cloud_percent=cloud_percent)
            (folder / "metadata.json").write_text(json.dumps(fields))


def write_band(path: Path, values: Num[np.ndarray, "n n"], *, place: Place) -> None:
    """Write one band as the published files have it; all grids share the patch's corners."""
    width, height = place.size_degrees
    pixels = len(values)
    scale = (width / pixels, height / pixels, 0.0)
    corner = (0.0, 0.0, 0.0, place.lon - width / 2, place.lat + height / 2, 0.0)
    geo = {
        33550: (12, 3, struct.pack("<3d", *scale)),
        33922: (12, 6, struct.pack("<6d", *corner)),
        34735: (3, len(GEO_KEYS), struct.pack(f"<{len(GEO_KEYS)}H", *GEO_KEYS)),
        34736: (12, 2, struct.pack("<2d", 298.257223563, 6378137.0)),
        34737: (2, 8, b"WGS 84|\0"),
    }
    rows = min(pixels, STRIP_BYTES // (pixels * values.itemsize))
    path.write_bytes(geotiff.write_band(values, geo=geo, rows_per_strip=rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    try:
        options = tyro.cli(Options, description=Options.__doc__, args=arguments)
        settings, start = options.settings, time.monotonic()
        what = (
            f"{settings.locations} locations × {settings.dates} dates of "
            f"{', '.join(sorted(set(settings.products)))} (synthetic, seed {settings.seed}): "
            f"{settings.num_files} files, {settings.num_bytes / 1e6:.0f} MB"
        )
        if is_complete(options.dest, settings=settings):
            print(f"{options.dest} is complete: {what}")
        elif options.dry_run:
            print(f"would write to {options.dest}: {what}")
        else:
            write_sample(options.dest, workers=options.workers, progress=True, **asdict(settings))
            print(f"wrote {options.dest}: {what} in {time.monotonic() - start:.0f} s")
    except (ValueError, FileExistsError) as error:
        sys.stderr.write(f"make_sample: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
