"""How many samples/s go from an archive into shards, beside a tree and the published conversion?

Run: `python benchmarks/archive.py --data TREE --scratch DIR`, TREE being Sentinel-2 L1C as
published; DIR keeps what is made (12 GB with 3,300 locations; `--locations N` for less).

A sample is one patch of one date, all 13 bands and metadata.json. Every line is a command in a
fresh process, pinned to as many cores as it gets workers: `ssl4eo-shard build` of an archive whose
locations lie in order of ids or in random order, the same of the unpacked tree, the published
conversion (`conversion.py`), and `tar xzf`, which that needs first. The most workers build all
locations in the first layout; everything else takes fewer and is rated by them. Ours are timed from
the start of Python to its end, the published conversion without its start. Commands take turns, in
an order that moves on by one from repeat to repeat; ratios are taken within a repeat. All read from
the page cache, as far as it goes.

Meanwhile are taken down (`watched.py`): memory, and every file in DEST or among temporary files
that is none of shards, their index, and unfinished ones; one such ends the benchmark. So do shards
or indexes of other bytes than those made from the same patches by another line. A second file tells
where the time of a patch goes (`stages.py`); `estimate.py` makes hours of the first.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import stages
from archive_material import LAYOUTS, Grown, Layout
from archive_runs import (
    AT_RANDOM,
    BY_ID,
    OURS,
    PUBLISHED,
    SOURCES,
    UNPACKING,
    Line,
    Measured,
    measure,
    same_bytes,
)
from report import RESULTS, summary, table, write_result

from ssl4eo_stream.geotiff import Codec

QUESTION = "How many samples/s go from an archive into shards, beside a tree and the published way?"
WHERE = "Where does the time of a patch go, on one core?"
PROMISED = {"as published": 4.0, "one strip": 4.0, "deflated": 2.0}
"""Layout -> how many times as fast as the published conversion an archive goes on two cores."""
PROMISED_MEGABYTES = 1500
"""Less than this is resident."""


def times(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return median and quartiles of how many times as fast ours are, repeat by repeat."""
    return summary([a / b for a, b in zip(ours, theirs, strict=True)], digits=2)


def row_of(line: Line, found: dict[Line, list[Measured]]) -> dict[str, Any]:
    """Return a line of the table: medians of its repeats, and ratios to others' of its workers."""

    def rates(source: str) -> list[float]:
        return [each.per_second for each in found[replace(line, source=source)]]

    repeats = found[line]
    rate, last = summary(rates(line.source)), repeats[-1]
    row: dict[str, Any] = {
        "files": line.layout, "source": line.source, "workers": line.workers,
        "samples": last.samples, "samples/s": rate["median"],
        "quartiles": f"{rate['low']}–{rate['high']}",
    }  # fmt: skip
    peak = max(each.seen.peak_bytes for each in repeats) / 1e6
    if line.source in OURS:
        ratio = times(rates(line.source), rates(PUBLISHED))
        row |= {"× published": ratio["median"],
                "its quartiles": f"{ratio['low']}–{ratio['high']}"}  # fmt: skip
    if line.source in (BY_ID, AT_RANDOM):
        both = [
            1 / (1 / a + 1 / b) for a, b in zip(rates(PUBLISHED), rates(UNPACKING), strict=True)
        ]
        row["× published after tar xzf"] = times(rates(line.source), both)["median"]
        kept = peak < PROMISED_MEGABYTES
        if line.workers > 1:
            row["promised"] = PROMISED[line.layout]
            kept &= row["× published"] >= PROMISED[line.layout]
        row["kept"] = "yes" if kept else "no"
    cpu = summary([each.seen.cpu_seconds for each in repeats], digits=6)["median"]
    first = summary([each.seen.main_cpu_seconds for each in repeats], digits=6)["median"]
    return row | {
        "peak resident MB": round(peak),
        "processes": max(each.seen.processes for each in repeats),
        "most files at a time": max(each.seen.files for each in repeats),
        "CPU ms a sample": round(cpu * 1e3 / last.samples, 3),
        "of the first process": round(first * 1e3 / last.samples, 3),
        "KB read a sample": round(last.read_bytes / 1e3 / last.samples, 1),
        "KB written a sample": round(last.written_bytes / 1e3 / last.samples, 1),
        "sha256": last.digest[:12],
    }


def grown(layout: Layout, locations: int, *, options: argparse.Namespace) -> Grown:
    """Return what is to be read."""
    return Grown(source=options.data, root=options.scratch, layout=layout, locations=locations)


def measure_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every command in its turn, repeat by repeat, and return the table."""
    order = [
        Line(layout, source, workers)
        for layout in options.layouts
        for source in SOURCES
        for workers in options.workers
    ]
    most = (options.layouts[0], max(options.workers))
    reads = {
        line: grown(
            line.layout,
            options.locations if (line.layout, line.workers) == most else options.few_locations,
            options=options,
        )
        for line in order
    }
    found: dict[Line, list[Measured]] = {line: [] for line in order}
    for repeat in range(options.repeats):
        turn = repeat % len(order)
        for line in order[turn:] + order[:turn]:
            each = measure(line, reads[line], options=options)
            found[line].append(each)
            print(f"{time.strftime('%H:%M:%S')} {repeat + 1}/{options.repeats} "
                  f"{each.per_second:7.1f}/s {each.seen.peak_bytes / 1e6:6.0f} MB  {line}",
                  file=sys.stderr, flush=True)  # fmt: skip
    same_bytes(found)
    return [row_of(line, found) for line in order]


def where_time_goes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the stages on one core, repeat by repeat, and return their table."""
    cv2.setNumThreads(1)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    rows: list[dict[str, Any]] = []
    scratch, codec = options.scratch / "stages", Codec.parse(options.codec)
    for layout in options.layouts:
        few = grown(layout, options.stage_locations, options=options)
        ours = [stages.ours(few, scratch, codec=codec) for _ in range(options.repeats)]
        theirs = [stages.published(few, scratch) for _ in range(options.repeats)]
        rows += stages.lines(layout, "this package", ours)
        rows += stages.lines(layout, PUBLISHED, theirs)
    os.sched_setaffinity(0, before)
    return rows


def main() -> None:
    """Make, measure, print and write."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--data", type=Path, required=True, help="tree of GeoTIFFs")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--locations", type=int, default=3300, help="of the large archive")
    parser.add_argument("--few-locations", type=int, default=256, help="of all others")
    parser.add_argument("--published-locations", type=int, default=100,
                        help="for the published conversion and tar")  # fmt: skip
    parser.add_argument("--stage-locations", type=int, default=24, help="to time stages on")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--codec", default="jpeg:90")
    parser.add_argument("--samples-per-shard", type=int, default=128, help="ids per shard")
    parser.add_argument("--repeats", type=int, default=3, help="two or more")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error("--repeats: two or more, for there is no spread of one")

    stage_rows = where_time_goes(options)
    print(table(stage_rows))
    rows = measure_all(options)
    print(table(rows))
    for theme, question, found in (
        ("archive-stages", WHERE, stage_rows), ("archive", QUESTION, rows)
    ):  # fmt: skip
        path = write_result(
            theme, question=question, repeats=options.repeats, rows=found, folder=options.results
        )
        print(path.name)


if __name__ == "__main__":
    main()
