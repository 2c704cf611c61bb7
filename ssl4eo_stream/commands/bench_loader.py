"""`ssl4eo-bench loader`: stream without training, and say live how fast and what it waits for."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.machine import environment
from ssl4eo_stream.stream.batch import Batch
from ssl4eo_stream.stream.clock import COUNTS
from ssl4eo_stream.stream.loader import StreamLoader
from ssl4eo_stream.stream.select import Selection
from ssl4eo_stream.stream.setup import Reading, Views
from ssl4eo_stream.stream.verdict import verdict

Recipe = Literal["moco_rn50"]
LIVE_SECONDS = 1.0
"""Between two refreshes of the line on a terminal."""
PLAIN_SECONDS = 5.0
"""Between two lines where stderr is a file."""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Stream a folder of shards without training; report samples/s and what bounds them.

    A line on stderr says every second how fast the stream is, how many requests were retried, and
    what bounds it: fetch-bound (bytes come too late), decode-bound, view-bound (cropping and
    augmentation), or trainer-bound (nothing to gain here). Without --step-milliseconds the trainer
    takes no time, so that it always waits; with it, find the fewest workers that make the stream
    trainer-bound. The first seconds, in which workers start and the first blocks arrive, are not
    counted. Storage credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*). Examples:

        ssl4eo-bench loader s3://bucket/ssl4eo/s2c --workers 8 --seconds 30 --json here.json

        ssl4eo-bench loader shards/s1 shards/s2c --workers 4 --step-milliseconds 135
    """

    urls: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="URL…")]
    """Folder of shards: s3://…, gs://…, az://…, http(s)://…, or a path. Several are products that
    are joined by location and date."""
    recipe: Recipe = "moco_rn50"
    """Whose views to make."""
    batch_size: int = 64
    """Locations per batch."""
    workers: int = 2
    """Loader processes; 0 loads in this one."""
    seconds: float = 30.0
    """How long to measure."""
    step_milliseconds: float = 0.0
    """Play a trainer that takes so long for every batch: what a step of yours takes on its device,
    as ssl4eo-bench headspace tells."""
    select: Selection = field(default_factory=Selection)
    """Which part of the data to read."""
    reading: Reading = field(default_factory=Reading)
    """Prefetch, local cache, and what happens where a sample cannot be read."""
    seed: int = 0
    """Decides order and augmentation."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the result, with machine and versions, to this file."""

    def __post_init__(self) -> None:
        if not self.urls:
            raise ValueError("URL is missing: give at least one folder of shards.")
        if self.seconds <= 0 or self.step_milliseconds < 0:
            raise ValueError(
                f"--seconds is {self.seconds}, which must be over 0; --step-milliseconds is "
                f"{self.step_milliseconds}, which must not be negative."
            )


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a stream did for a while."""

    seconds: float
    """How long."""
    stats: Mapping[str, float]
    """What `StreamLoader.stats` said of it."""


def together(windows: Sequence[Window]) -> dict[str, float]:
    """Return the statistics of several windows as if they were one.

    Rates and the trainer's waiting are weighted by time, the stages' shares by the readers' working
    time, which is all their time but the idle part; counts are summed.
    """
    total = sum(window.seconds for window in windows)
    busy = [window.seconds * (1 - window.stats.get("share_idle", 0.0)) for window in windows]
    names = dict.fromkeys(name for window in windows for name in window.stats)
    merged = {}
    for name in names:
        values = [window.stats.get(name, 0.0) for window in windows]
        weights, scale = [window.seconds for window in windows], total
        if name in COUNTS:
            weights, scale = [1.0] * len(windows), 1.0
        elif name.startswith("share_") and name != "share_idle":
            # A window without a batch knows no shares.
            weights = [
                each if window.stats["samples_per_second"] else 0.0
                for each, window in zip(busy, windows, strict=True)
            ]
            scale = sum(weights) or 1.0
        merged[name] = sum(w * v for w, v in zip(weights, values, strict=True)) / scale
    if merged["samples_per_second"]:
        merged["bytes_per_sample"] = (
            1e6 * merged["megabytes_per_second"] / merged["samples_per_second"]
        )
    return merged


def views_of(recipe: Recipe) -> Views:
    """Return the views of a recipe."""
    match recipe:
        case "moco_rn50":
            return MoCoViews(size=224)


def peak_megabytes(pids: list[int]) -> float | None:
    """Return the greatest peak resident set of some processes, or None where nothing tells."""
    peaks = []
    for pid in pids:
        status = Path(f"/proc/{pid}/status")
        if not status.exists():
            return None
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        peaks.append(int(fields["VmHWM"].split()[0]) * 1024 / 1e6)
    return max(peaks, default=None)


def live_line(stats: Mapping[str, float], *, retries: float) -> str:
    """Return what is shown while streaming; `retries` is their number so far."""
    found = verdict(stats)
    return (
        f"{stats['samples_per_second']:.1f} samples/s, {stats['megabytes_per_second']:.1f} MB/s, "
        f"{retries:.0f} retries, {found.bound if found else 'no batch yet'}"
    )


@dataclass
class Live:
    """Reads a loader's statistics every second or so, and shows them on stderr."""

    loader: StreamLoader
    """What streams; its statistics are taken here alone."""
    windows: list[Window] = field(default_factory=list)
    """What was measured since `restart`."""
    _start: float = field(default_factory=time.perf_counter)
    _bar: tqdm = field(
        default_factory=lambda: tqdm(unit=" samples", desc="streaming", disable=None,
                                     bar_format="{desc} {n_fmt} samples, {elapsed}{postfix}")
    )  # fmt: skip

    def restart(self) -> None:
        """Forget what was measured so far: what follows counts."""
        self.loader.stats()
        self.windows.clear()
        self._start = time.perf_counter()

    def advance(self, samples: int) -> None:
        """Count a batch, and show the line if it is time."""
        self._bar.update(samples)
        every = PLAIN_SECONDS if self._bar.disable else LIVE_SECONDS
        if time.perf_counter() - self._start >= every:
            self.take()
            line = live_line(
                self.windows[-1].stats,
                retries=sum(window.stats.get("retries", 0) for window in self.windows),
            )
            if self._bar.disable:
                sys.stderr.write(f"streaming: {line}\n")
            else:
                self._bar.set_postfix_str(line)

    def take(self) -> None:
        """End a window and begin the next."""
        now = time.perf_counter()
        self.windows.append(Window(seconds=now - self._start, stats=self.loader.stats()))
        self._start = now

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()


def measure(options: Loader) -> dict[str, Any]:
    """Stream for the time asked for.

    Raises:
        StorageError: The shards cannot be read.
        ShardError: They are not a finished data set, or damaged.
        ValueError: An option does not fit the data.
    """
    with StreamLoader(
        options.urls,
        views=views_of(options.recipe),
        batch_size=options.batch_size,
        seed=options.seed,
        workers=options.workers,
        select=options.select,
        reading=options.reading,
    ) as loader:
        live = Live(loader)
        try:
            _stream(loader, live=live, options=options)
        finally:
            live.close()
        stats = together(live.windows)
        found = verdict(stats)
        return {
            "url": loader.url,
            "products": [
                {"product": each.product, "codec": each.codec} for each in loader.manifests
            ],
            "recipe": options.recipe,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "seconds": options.seconds,
            "step_milliseconds": options.step_milliseconds,
            **{name: round(value, 4) for name, value in stats.items()},
            "verdict": found.bound if found else "no batch came",
            "advice": found.advice if found else "Measure for longer: --seconds.",
            "worker_peak_megabytes": peak_megabytes(loader.worker_pids),
            **environment(),
        }


def _stream(loader: StreamLoader, *, live: Live, options: Loader) -> None:
    """Take batches until the time is over, not counting the first of every worker."""
    deadline = None
    for number, batch in enumerate(_for_ever(loader), start=1):
        samples = len(batch.keys)
        del batch  # its memory goes back to the workers, as a trainer's would
        time.sleep(options.step_milliseconds / 1000)
        live.advance(samples)
        if deadline is None and number == 2 * max(1, options.workers):
            live.restart()
            deadline = time.perf_counter() + options.seconds
        elif deadline is not None and time.perf_counter() >= deadline:
            break
    live.take()


def _for_ever(loader: StreamLoader) -> Iterator[Batch]:
    while True:
        yield from loader


def summary(result: Mapping[str, Any]) -> str:
    """Return the result as a line of numbers and one of advice."""
    shares = {name.removeprefix("share_"): value
              for name, value in result.items() if name.startswith("share_")}  # fmt: skip
    idle = shares.pop("idle", 0.0)
    stages = ", ".join(
        f"{name} {100 * share:.0f} %"
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    )
    resting = f", besides {100 * idle:.0f} % idle" if idle else ""
    return (
        f"{result['samples_per_second']:.1f} samples/s, {result['megabytes_per_second']:.1f} MB/s, "
        f"{result['bytes_per_sample'] / 1000:.1f} kB a sample; the readers' time: {stages}{resting}"
        f"\n{result['verdict']} (the trainer waits {100 * result['wait_share']:.0f} % of its time, "
        f"{result.get('retries', 0):.0f} retries). {result['advice']}"
    )
