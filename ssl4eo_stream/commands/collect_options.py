"""Flags of `ssl4eo-collect download`, and what they ask for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.collect.choice import Orbit, Wish
from ssl4eo_stream.collect.fetch import Missing, Request
from ssl4eo_stream.collect.windows import SEASONS, Calendar, parse_dates


@dataclass(frozen=True, kw_only=True)
class Download:
    """Take four dates of each location of a plan: a tree laid out like SSL4EO-S12, or shards.

    For every date a scene of each product is chosen out of 30 days: Sentinel-2 with few clouds,
    L1C and L2A of one pass, on one tile for all dates if there is one; Sentinel-1 nearest to it in
    time. Where a year gives none, the same days of the year before are looked at; a location that
    lacks a product on a date even so is rejected, and the next of the plan takes its place. So make
    the plan longer than --n: a half more is much.

    DEST gets {s1,s2a,s2c}/ID/ACQUISITION/BAND.tif with metadata.json, which ssl4eo-shard build
    takes as it is, and collect.sqlite, which knows what became of each location. Stop it whenever
    you like, it ends within seconds: the same command goes on where it stopped. Several may work at
    one DEST, on one machine or on several that share it, and nothing is done twice. What is
    collected does not depend on any of that: it is the shortest beginning of the plan that has N
    good locations. --n may grow from run to run, and the plan by a tail; whatever else decides the
    result has to stay.

    Needs an account with Earth Engine (https://earthengine.google.com/noncommercial) and a Google
    Cloud project: run earthengine authenticate once, and give --project; or give the key of a
    service account.
    """

    plan: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PLAN.csv")]
    """Locations, as ssl4eo-collect plan writes them: columns lon, lat and, if there, id."""
    dest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DEST")]
    """Folder for the tree, made if missing."""
    year: Annotated[int, tyro.conf.arg(metavar="YYYY")]
    """Year of the dates; the release is of 2021."""
    products: Annotated[str, tyro.conf.arg(metavar="s1,s2a,s2c")] = "s1,s2a,s2c"
    """Sentinel-1 (s1: VV, VH), Sentinel-2 L2A (s2a: 12 bands), L1C (s2c: 13 bands); any of them."""
    n: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many locations to collect; all of the plan that can be had if not given."""
    dates: Annotated[str | None, tyro.conf.arg(metavar="MM-DD,…")] = None
    """Middles of the windows, any number, 30 days or more apart; if not given 03-20,06-21,09-22,
    12-21, the equinoxes and solstices of the paper."""
    random_phase: bool = False
    """Do as the release really did: shift each location's four dates back by one random number of
    days, 0 to 364, so that they are a quarter apart and every month is as frequent."""
    seed: int = 0
    """Of those numbers, 0 or more; a location's is its own, whatever else is collected."""
    cloud: Annotated[float, tyro.conf.arg(metavar="PERCENT")] = 10.0
    """Sentinel-2 scenes have fewer clouds than this, over the whole scene."""
    orbit: Orbit = "any"
    """Pass of Sentinel-1: ascending, descending, or either as the release has it."""
    missing: Missing = "next"
    """What to do about a patch with missing pixels, at the edge of a swath for example.
    next: take the next best scene; where there is none, reject the location.
    reject: reject the location at once.
    record: keep it; metadata.json says how many are missing."""
    shards: bool = False
    """Write no tree but shards, DEST/{s1,s2a,s2c}/, the same as ssl4eo-shard build makes of the
    tree: a twentieth of the room, and no millions of small files. For one process at a time; --n
    can't grow once they are packed, which happens when all locations are there."""
    codec: Annotated[str, tyro.conf.arg(metavar="jpeg:Q|zstd|zstd16")] = "jpeg:90"
    """How --shards keep pixels; see ssl4eo-shard build."""
    samples_per_shard: Annotated[int, tyro.conf.arg(metavar="N")] = 512
    """Ids per shard; shard number = id // this."""
    concurrency: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Locations at once, each one request after the other; Earth Engine allows a project 40
    requests at once unless it was granted more."""
    part: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1"
    """Do part I, from 0, of N: every N-th location of the plan, and that share of --n. For machines
    that share no folder; those that do need no parts."""
    source: Literal["earthengine", "stac"] = "earthengine"
    """Who is asked for images. stac: a STAC catalogue, Microsoft's Planetary Computer if --url
    names no other; needs no account, has L2A, and Sentinel-1 as gamma nought, which metadata.json
    says (pip install 'ssl4eo-stream[stac]')."""
    as_delivered: bool = False
    """Leave Sentinel-2's numbers as they are: raised by 1000 since 2022-01-25. If not given, all
    are on the scale of before, from Earth Engine's harmonised collections."""
    project: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Google Cloud project that requests are charged to."""
    service_account: Annotated[Path | None, tyro.conf.arg(metavar="KEY.json")] = None
    """Key of a service account to sign in with, instead of who ran earthengine authenticate."""
    url: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Address of the service; Earth Engine's for many requests if not given."""
    dry_run: bool = False
    """Say what it would cost, ask for nothing and write nothing."""


def wrong_flags(options: Download) -> str | None:
    """Return what is wrong with the flags, if anything."""
    products = options.products.split(",")
    unknown = [name for name in products if name not in PRODUCTS]
    return (
        f"--products {options.products}: {unknown[0]!r} is none; give some of "
        f"{','.join(PRODUCTS)}, with commas between them"
        if unknown
        else f"--products {options.products} names one twice"
        if len(set(products)) < len(products)
        else f"--n is {options.n}; give 1 or more" if options.n is not None and options.n < 1
        else "--dates and --random-phase are different ways to choose; give one of them"
        if options.dates is not None and options.random_phase
        else "--source stac has no L1C on map grids; give --products s1,s2a"
        if options.source == "stac" and "s2c" in products
        else "--as-delivered is of --source earthengine alone"
        if options.source == "stac" and options.as_delivered
        else f"--seed is {options.seed}; give 0 or more" if options.seed < 0
        else f"--cloud is {options.cloud:g}; give more than 0, to 100 percent"
        if not 0 < options.cloud <= 100
        else f"--concurrency is {options.concurrency}; give 1 to 500"
        if not 1 <= options.concurrency <= 500
        else f"--samples-per-shard is {options.samples_per_shard}; give 1 or more"
        if options.samples_per_shard < 1
        else "--shards takes no --part: two would write the same shards. Give each machine a plan"
        if options.shards and options.part != "0/1"
        else None
    )  # fmt: skip


def request_of(options: Download) -> Request:
    """Return what is to be had of every location.

    Raises:
        PlanError: The dates are wrong.
    """
    asked = options.products.split(",")
    return Request(
        wish=Wish(
            products=tuple(product.name for product in PRODUCTS.values() if product.name in asked),
            cloud_percent=float(options.cloud),
            orbit=options.orbit,
        ),
        calendar=Calendar(
            year=options.year,
            dates=SEASONS if options.dates is None else parse_dates(options.dates),
            random_phase=options.random_phase,
            seed=options.seed,
        ),
        missing=options.missing,
    )
