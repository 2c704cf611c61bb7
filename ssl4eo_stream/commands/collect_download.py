"""`ssl4eo-collect download`: take the patches of a plan from Earth Engine."""

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.collect import cost, locations
from ssl4eo_stream.collect.choice import Orbit, Wish
from ssl4eo_stream.collect.crawl import Outcome, crawl
from ssl4eo_stream.collect.fetch import Missing, Request
from ssl4eo_stream.collect.part import Part, read_plan
from ssl4eo_stream.collect.scene import ImageService
from ssl4eo_stream.collect.state import State
from ssl4eo_stream.collect.taken import Place
from ssl4eo_stream.collect.tree import Tree
from ssl4eo_stream.collect.windows import SEASONS, Calendar, parse_dates
from ssl4eo_stream.commands.arguments import USAGE, progress_bar
from ssl4eo_stream.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class Download:
    """Take four dates of each location of a plan, as a tree of GeoTIFFs laid out like SSL4EO-S12.

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


def run(options: Download) -> int:
    """Collect, with a bar; returns the exit code.

    Raises:
        PlanError: The plan is wrong, or DEST was begun with another or otherwise.
        ServiceError: The service refuses, or failed for many locations in a row.
        StorageError: DEST can't be written.
    """
    try:
        if wrong := _wrong(options):
            raise ValueError(wrong)
        part = Part.parse(options.part)
    except ValueError as error:
        sys.stderr.write(f"ssl4eo-collect: {error}.\n")
        return USAGE
    plan = read_plan(options.plan)
    places = part.places(plan)
    wanted = len(places) if options.n is None else part.share(options.n)
    if options.n is not None and options.n > len(plan):
        raise PlanError(
            f"--n {options.n}: {options.plan} has only {len(plan)} locations. Make a longer plan "
            "of the same seed: some locations will have no clear images."
        )
    request = _request(options)
    if request.calendar.end > datetime.now(UTC):
        raise PlanError(
            f"--year {options.year}: the last window ends on {request.calendar.end:%Y-%m-%d}, and "
            "what is collected must not depend on today's date. Give an earlier year."
        )
    sys.stderr.write(f"{_estimate(wanted, request, concurrency=options.concurrency)}\n")
    if options.dry_run:
        return 0
    return collect(options, _service(options), places=places, wanted=wanted, part=part)


def collect(
    options: Download, service: ImageService, *, places: list[Place], wanted: int, part: Part
) -> int:
    """Collect from a service, with a bar; returns the exit code.

    Args:
        options: What was asked for.
        service: Who has images.
        places: The plan's part.
        wanted: How many of it.
        part: Which part it is.

    Raises:
        PlanError: DEST was begun otherwise.
        ServiceError: The service refuses, or failed for many locations in a row.
        StorageError: DEST can't be written.
    """
    start = time.monotonic()
    request = _request(options)
    path = part.state_path(options.dest)
    settings = _settings(options, request, part=part, source=service.name)
    state = State(path, places=places, settings=settings, wanted=wanted)
    tree = Tree(options.dest, products=request.wish.products)
    refused, now = state.reasons("rejected"), 0
    with progress_bar() as bar:
        bar.reset(total=wanted)
        bar.initial = bar.n = state.counts().done

        def advance(outcome: Outcome) -> None:
            nonlocal now
            if outcome.status == "rejected":
                refused[outcome.reason] = refused.get(outcome.reason, 0) + 1
                bar.set_postfix_str(f"rejected: {locations.told(refused)}", refresh=False)
            now += outcome.status == "done"
            bar.update(outcome.status == "done")

        report = crawl(
            service, tree,
            request=request, state=state, concurrency=options.concurrency, on_outcome=advance,
        )  # fmt: skip
    tree.close()
    counts = report.counts
    short = options.n is not None and counts.done < wanted
    sys.stdout.write(
        f"{options.dest}: locations {counts.done} of {wanted}, {now} now; rejected "
        f"{counts.rejected} ({locations.told(report.rejected)}); failed {counts.failed}; "
        f"{time.monotonic() - start:.1f} s\n"
    )
    if counts.failed:
        sys.stderr.write(
            f"ssl4eo-collect: the service did not answer for {counts.failed} locations; run the "
            "same command again, to try them again.\n"
        )
    elif short:
        sys.stderr.write(
            f"ssl4eo-collect: the plan is at its end, {wanted - counts.done} locations short of "
            f"--n {options.n}. Make a longer one with the same flags and a greater --n, which "
            "begins with the same locations, and run the same command with it.\n"
        )
    return int(counts.failed > 0 or short)


def _wrong(options: Download) -> str | None:
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
        else None
    )  # fmt: skip


def _request(options: Download) -> Request:
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


def _settings(
    options: Download, request: Request, *, part: Part, source: str
) -> dict[str, str | int | float | None]:
    """Return what decides the result, named as people know it."""
    return {
        "--products": ",".join(request.wish.products),
        "--year": options.year,
        "--dates": ",".join(f"{month:02d}-{day:02d}" for month, day in request.calendar.dates),
        "--random-phase --seed": options.seed if options.random_phase else None,
        "--cloud": request.wish.cloud_percent,
        "--orbit": options.orbit,
        "--missing": options.missing,
        "--part": f"{part}",
        "--as-delivered": options.as_delivered,
        "images of": source,
    }


def _estimate(wanted: int, request: Request, *, concurrency: int) -> str:
    """Say what it will cost."""
    made = cost.cost_of(wanted, request=request, concurrency=concurrency)
    hours = made.seconds / 3600
    return (
        f"{wanted} locations × {len(request.calendar.dates)} dates of "
        f"{', '.join(request.wish.products)}: {made.searches + made.cuts:,} requests "
        f"({made.searches:,} searches, {made.cuts:,} for pixels), {made.num_bytes / 1e9:,.1f} GB "
        f"of pixels; {hours:,.1f} hours with {concurrency} at once if a request takes "
        f"{cost.SECONDS_PER_REQUEST} s (an assumption). Rejected locations come on top."
    )


def _service(options: Download) -> ImageService:
    """Return who is asked; its client is imported now, for it takes a second."""
    if options.source == "stac":
        from ssl4eo_stream.collect.stac import CATALOGUE, StacCatalogue

        return StacCatalogue(options.url or CATALOGUE)
    from ssl4eo_stream.collect.earthengine import URL, EarthEngine

    return EarthEngine(
        project=options.project,
        service_account_key=options.service_account,
        url=options.url or URL,
        harmonized=not options.as_delivered,
    )
