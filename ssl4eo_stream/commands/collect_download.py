"""`ssl4eo-collect download`: take the patches of a plan from Earth Engine."""

import sys
import time
from datetime import UTC, datetime

from ssl4eo_stream.collect import cost, locations
from ssl4eo_stream.collect.crawl import Outcome, Report, crawl
from ssl4eo_stream.collect.fetch import Request
from ssl4eo_stream.collect.part import Part, read_plan
from ssl4eo_stream.collect.scene import ImageService
from ssl4eo_stream.collect.state import State
from ssl4eo_stream.collect.taken import Place, Sink
from ssl4eo_stream.collect.tree import Tree
from ssl4eo_stream.commands.arguments import USAGE, progress_bar
from ssl4eo_stream.commands.collect_options import Download, request_of, wrong_flags
from ssl4eo_stream.errors import PlanError, Ssl4eoError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.collected import CollectedShards


def run(options: Download) -> int:
    """Collect, with a bar; returns the exit code.

    Raises:
        PlanError: The plan is wrong, or DEST was begun with another or otherwise.
        ServiceError: The service refuses, or failed for many locations in a row.
        StorageError: DEST can't be written.
    """
    try:
        if wrong := wrong_flags(options):
            raise ValueError(wrong)
        part = Part.parse(options.part)
        Codec.parse(options.codec)
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
    request = request_of(options)
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
    request = request_of(options)
    path = part.state_path(options.dest)
    settings = _settings(options, request, part=part, source=service.name)
    state = State(path, places=places, settings=settings, wanted=wanted)
    sink = _sink(options, request, state)
    try:
        report, now = _collect(service, sink, request, state, options=options, wanted=wanted)
        counts = report.counts
        short = options.n is not None and counts.done < wanted
        sys.stdout.write(
            f"{options.dest}: locations {counts.done} of {wanted}, {now} now; rejected "
            f"{counts.rejected} ({locations.told(report.rejected)}); failed {counts.failed}; "
            f"{time.monotonic() - start:.1f} s\n"
        )
        if counts.failed:
            sys.stderr.write(
                f"ssl4eo-collect: the service did not answer for {counts.failed} locations; run "
                "the same command again, to try them again.\n"
            )
        elif short:
            sys.stderr.write(
                f"ssl4eo-collect: the plan is at its end, {wanted - counts.done} locations short "
                f"of --n {options.n}. Make a longer one with the same flags and a greater --n, "
                "which begins with the same locations, and run the same command with it.\n"
            )
        elif isinstance(sink, CollectedShards) and counts.done:
            _pack(sink, State(path, places=places, settings=settings, wanted=wanted))
    finally:
        sink.close()
    return int(counts.failed > 0 or short)


def _collect(
    service: ImageService,
    sink: Sink,
    request: Request,
    state: State,
    *,
    options: Download,
    wanted: int,
) -> tuple[Report, int]:
    """Return what became of the plan, and how many locations came to be done here."""
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
            service, sink,
            request=request, state=state, concurrency=options.concurrency, on_outcome=advance,
        )  # fmt: skip
    return report, now


def _sink(options: Download, request: Request, state: State) -> Tree | CollectedShards:
    products = request.wish.products
    if not options.shards:
        return Tree(options.dest, products=products)
    try:
        return CollectedShards(
            options.dest, products=products, codec=options.codec,
            samples_per_shard=options.samples_per_shard, done=state.ids("done"),
        )  # fmt: skip
    except Ssl4eoError:
        state.close()
        raise


def _pack(shards: CollectedShards, state: State) -> None:
    """Pack what was collected, and say so."""
    done = state.ids("done")
    state.close()
    for product, built in shards.pack(done).items():
        if built is not None:
            size = sum(shard.bytes for shard in built.manifest.shards)
            sys.stdout.write(
                f"{product} {built.manifest.codec}: shards {len(built.manifest.shards)}, locations "
                f"{built.manifest.locations}, {size / 1e6:.1f} MB\n"
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
        "--shards --codec": options.codec if options.shards else None,
        "--shards --samples-per-shard": options.samples_per_shard if options.shards else None,
        "--shards --n": options.n if options.shards else None,
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
