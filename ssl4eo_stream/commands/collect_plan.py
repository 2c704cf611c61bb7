"""`ssl4eo-collect plan`: choose where to look, once and for all."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ssl4eo_stream.collect import locations
from ssl4eo_stream.collect.areas import land_area, read_area
from ssl4eo_stream.collect.candidates import around, over, read_points
from ssl4eo_stream.collect.cities import known_cities, read_cities
from ssl4eo_stream.commands.arguments import USAGE, progress_bar

PATCH_METRES = 2640.0
"""Side of a patch: 264 pixels of 10 m (paper, section III)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Choose locations, as a table with columns id, lon, lat (degrees, WGS84), city.

    Cities are drawn from the most populous, each as likely as the others, and a place around each,
    with a standard deviation of --sigma-km east and north; what lies too near a location that is
    there already is refused. The same flags give the same file, and a greater --n the same
    locations and more after them: ask for some more than you want, and the tail replaces what
    turns out to have no clear images.
    """

    output: Annotated[Path, tyro.conf.arg(metavar="FILE.csv")]
    """The table."""
    n: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many locations; with --points all of them if not given."""
    seed: int = 0
    """Which draw, 0 or more."""
    cities: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv[.gz]")] = None
    """Cities in simplemaps' columns city, lat, lng, population; those of GeoNames if not given."""
    top: Annotated[int, tyro.conf.arg(metavar="N")] = 10_000
    """How many of the most populous cities."""
    sigma_km: Annotated[float, tyro.conf.arg(metavar="KM")] = 50.0
    """Standard deviation of the way from the city, on the ground, in each direction; to 1,000."""
    min_separation: Annotated[float, tyro.conf.arg(metavar="METRES")] = 0.75 * PATCH_METRES
    """No two locations are nearer; 0 to 100,000. The paper's 3/4 of a patch lets patches share a
    quarter; 2640 still lets corners overlap, 3734 lets nothing overlap however patches are turned.
    """
    land_only: bool = False
    """Refuse what lies in the sea, by a coarse outline: small islands are lost, and shores are off
    by up to some 20 km."""
    polygon: Annotated[str | None, tyro.conf.arg(metavar="FILE.geojson|land")] = None
    """Draw evenly over the polygons of this file, or over all land, instead of around cities."""
    points: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv[.gz]")] = None
    """Take these locations, in columns lon, lat and, if there, id and city, instead of drawing."""
    map: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Where a map of the locations goes; beside the table, with .png, if not given."""
    dry_run: bool = False
    """Say what would come of it, and write nothing."""


def run(options: Plan) -> int:
    """Choose, with a bar; returns the exit code.

    Raises:
        PlanError: A table or polygon is wrong, or there is no room for so many locations.
        StorageError: The table or the map can't be written.
    """
    picture = options.map or options.output.with_suffix(".png")
    if wrong := _wrong(options, picture):
        sys.stderr.write(f"ssl4eo-collect: {wrong}.\n")
        return USAGE
    start = time.monotonic()
    if options.points is not None:
        source, origin = iter([read_points(options.points)]), f"{options.points}"
    elif options.polygon is not None:
        area = land_area() if options.polygon == "land" else read_area(Path(options.polygon))
        source, origin = over(area, seed=options.seed), f"{options.polygon}, seed {options.seed}"
    else:
        cities = (
            known_cities(top=options.top) if options.cities is None
            else read_cities(options.cities, top=options.top)
        )  # fmt: skip
        source = around(cities, sigma_metres=1000 * options.sigma_km, seed=options.seed)
        table = options.cities or "GeoNames"
        origin = f"around {options.top} cities of {table}, seed {options.seed}"
    with progress_bar() as bar:
        bar.reset(total=options.n)
        made = locations.plan(
            source,
            n=options.n,
            min_separation_metres=options.min_separation,
            land=land_area() if options.land_only else None,
            on_taken=bar.update,
        )
    if not options.dry_run:
        from ssl4eo_stream.collect.picture import world_map  # its matplotlib takes a second

        locations.write_whole(picture, world_map(made.lon, made.lat))
        locations.write_plan(options.output, made)
    written = "nothing written" if options.dry_run else f"map {picture}"
    sys.stdout.write(
        f"{options.output}: locations {len(made.ids)}, {origin}; candidates {made.candidates}, "
        f"{len(made.ids) / made.candidates:.2%} accepted ({locations.told(made.refused)}), "
        f"no two within {options.min_separation:g} m; {written}; "
        f"{time.monotonic() - start:.1f} s\n"
    )
    return 0


def _wrong(options: Plan, picture: Path) -> str | None:
    """Return what is wrong with the flags, if anything."""
    sources = [
        flag for flag, value in
        [("--cities", options.cities), ("--polygon", options.polygon), ("--points", options.points)]
        if value is not None
    ]  # fmt: skip
    return (
        f"{' and '.join(sources)} are different ways to choose; give one of them"
        if len(sources) > 1
        else "--n is missing; say how many locations, as in --n 250000"
        if options.n is None and options.points is None
        else f"--n is {options.n}; give 1 or more" if options.n is not None and options.n < 1
        else f"--seed is {options.seed}; give 0 or more" if options.seed < 0
        else f"--top is {options.top}; give 1 or more" if options.top < 1
        else f"--sigma-km is {options.sigma_km:g}; give 0 to 1000"
        if not 0 <= options.sigma_km <= 1000
        else f"--min-separation is {options.min_separation:g}; give 0 to 100000 metres"
        if not 0 <= options.min_separation <= 100_000
        else f"--output and --map are both {picture}; give --map another name"
        if picture == options.output
        else None
    )  # fmt: skip
