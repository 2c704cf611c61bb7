"""How many times as fast as one worker are several?

Run: `python benchmarks/scaling.py --data SHARDS --workers 1 2` (Sentinel-2 L1C, MoCo's two views).

All loaders live at once, and each in its turn is drained of what lay ready, timed for a slice, and
left until its ring is full again and it sleeps. Ratios are taken within a round of turns, in which
the machine is the same; the order of turns changes from round to round. One worker alone may use
the other cores for its fetch threads. `--plot FILE` draws the rates.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from report import summary, table, write_result

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.stream.batch import Batch

QUESTION = "How many times as fast as one worker are several?"
DRAIN_SECONDS, SLEEP_SECONDS = 0.4, 0.5


def without_end(loader: StreamLoader) -> Iterator[Batch]:
    """Yield the batches of epoch after epoch."""
    while True:
        yield from loader


def rate(batches: Iterator[Batch], *, workers: int, batch_size: int, seconds: float) -> float:
    """Return samples/s of a slice of a loader that was at rest."""
    take(batches, workers=workers, seconds=DRAIN_SECONDS)
    start = time.perf_counter()
    taken = take(batches, workers=workers, seconds=seconds)
    found = taken * batch_size / (time.perf_counter() - start)
    time.sleep(SLEEP_SECONDS)
    return found


def take(batches: Iterator[Batch], *, workers: int, seconds: float) -> int:
    """Take one batch of every worker until the time is over, and return how many."""
    start, taken = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(workers):
            next(batches)
        taken += workers
    return taken


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--data", required=True, help="folder of shards")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a slice")
    parser.add_argument("--plot", type=Path, help="picture to draw")
    options = parser.parse_args()
    loaders = {
        workers: StreamLoader(
            options.data, views=MoCoViews(size=224), batch_size=options.batch_size, workers=workers
        )
        for workers in options.workers
    }
    streams = {workers: without_end(loader) for workers, loader in loaders.items()}
    for workers, stream in streams.items():
        take(stream, workers=workers, seconds=2 * DRAIN_SECONDS)  # starts the workers
    time.sleep(SLEEP_SECONDS)
    rates: dict[int, list[float]] = {workers: [] for workers in loaders}
    for number in range(options.rounds):
        turns = options.workers if number % 2 else options.workers[::-1]
        for workers in turns:
            found = rate(streams[workers], workers=workers, batch_size=options.batch_size,
                         seconds=options.seconds)  # fmt: skip
            rates[workers].append(found)
    codec = loaders[options.workers[0]].manifests[0].codec
    first = options.workers[0]
    rows = []
    for workers in options.workers:
        own = summary(rates[workers])
        times = summary(
            [a / b for a, b in zip(rates[workers], rates[first], strict=True)], digits=2
        )
        rows.append({
            "workers": workers, "codec": codec, "samples/s": own["median"],
            "quartiles": f"{own['low']}–{own['high']}", f"× {first} worker": times["median"],
            "its quartiles": f"{times['low']}–{times['high']}",
        })  # fmt: skip
    for loader in loaders.values():
        loader.close()
    print(table(rows))
    if options.plot:
        draw({row["workers"]: row["samples/s"] for row in rows}, options.plot)
    print(write_result("scaling", question=QUESTION, repeats=options.rounds, rows=rows).name)


def draw(rates: dict[int, float], path: Path) -> None:
    """Draw rates over workers, beside what the first one promises."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    first = min(rates)
    axes.plot([*rates], [workers * rates[first] / first for workers in rates], "--", color="gray",
              label="proportional")  # fmt: skip
    axes.plot([*rates], [*rates.values()], "o-", label="measured")
    axes.set(xlabel="workers", ylabel="samples/s", ylim=(0, None))
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
