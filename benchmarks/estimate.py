"""How long does the full data set take? Arithmetic on what `archive.py` measured.

Run: `python benchmarks/estimate.py benchmarks/results/archive_….json [--cores 32] [--nodes 10]`

Three bounds, of which the longest counts. Processor: all work, spread over all cores, as well used
as the measured ones were. Stream: what the first process does of an archive (read, inflate, take
the tar apart, hand over, file) or of an LMDB (write), which no number of cores makes faster. Bytes:
what is read and written at the rate of a node.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archive_runs import AT_RANDOM, PUBLISHED, TREE
from report import table

PRODUCTS = 3
LOCATIONS, DATES = 251_079, 4
PATCHES = LOCATIONS * DATES
"""Of each product (paper, section III)."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a patch costs, as measured."""

    cpu_seconds: float
    """Processor time of all processes."""
    stream_seconds: float
    """Processor time of the one process that can't be shared out; 0 where there is none."""
    bytes: float
    """Read and written."""
    used: float
    """Share of the cores' time that was used, 0-1."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What there is to work with."""

    nodes: int
    """Machines."""
    cores: int
    """Cores of each."""
    megabytes_per_second: float
    """What each of them reads and writes, all at the same time."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Hours that each bound asks for."""

    processor: float
    stream: float
    bytes: float

    @property
    def hours(self) -> float:
        """The longest."""
        return max(self.processor, self.stream, self.bytes)

    @property
    def bound(self) -> str:
        """Which one that is."""
        found = {"processor": self.processor, "stream": self.stream, "bytes": self.bytes}
        return max(found, key=lambda name: found[name])


def cost_of(row: Mapping[str, Any], *, streams: bool) -> Cost:
    """Return what a patch of a line of `archive.py` costs.

    Args:
        row: The line.
        streams: Whether its first process does what can't be shared out.
    """
    cpu = row["CPU ms a sample"] / 1e3
    return Cost(
        cpu_seconds=cpu,
        stream_seconds=row["of the first process"] / 1e3 if streams else 0.0,
        bytes=(row["KB read a sample"] + row["KB written a sample"]) * 1e3,
        used=min(1.0, cpu * row["samples/s"] / row["workers"]),
    )


def estimate(cost: Cost, cluster: Cluster, *, products: int = PRODUCTS) -> Estimate:
    """Return the hours for all patches of some products, all worked on at the same time.

    A product with a stream occupies one node: others can't help it.
    """
    nodes = min(cluster.nodes, products) if cost.stream_seconds else cluster.nodes
    patches = products * PATCHES
    return Estimate(
        processor=patches * cost.cpu_seconds / (nodes * cluster.cores * cost.used) / 3600,
        stream=PATCHES * cost.stream_seconds / 3600,
        bytes=patches * cost.bytes / (nodes * cluster.megabytes_per_second * 1e6) / 3600,
    )


def rows_of(rows: Sequence[Mapping[str, Any]], clusters: Sequence[Cluster]) -> list[dict[str, Any]]:
    """Return a line for every source and cluster.

    Args:
        rows: The lines of `archive.py`; the most workers and the first layout count.
        clusters: Where to run.
    """
    most = max(row["workers"] for row in rows)
    first = rows[0]["files"]
    lines = {r["source"]: r for r in rows if (r["workers"], r["files"]) == (most, first)}
    found = []
    for source, streams in ((AT_RANDOM, True), (TREE, False), (PUBLISHED, True)):
        cost = cost_of(lines[source], streams=streams)
        for cluster in clusters:
            each = estimate(cost, cluster)
            found.append({
                "source": source, "nodes": cluster.nodes, "cores of each": cluster.cores,
                "hours": round(each.hours, 2), "bound": each.bound,
                "processor": round(each.processor, 2), "stream": round(each.stream, 2),
                "bytes": round(each.bytes, 2), "cores used %": round(100 * cost.used),
            })  # fmt: skip
    return found


def assumptions(cluster: Cluster) -> list[str]:
    """Return what the estimate takes for granted."""
    return [
        f"{PRODUCTS} products at the same time, {PATCHES:,} patches each. S1 and L2A cost what L1C "
        "does; they have fewer bytes.",
        "An archive is one gzip stream: one process inflates it, and its node's cores encode. "
        f"Nodes beyond the {PRODUCTS} that read have nothing to do, unless the source is a tree.",
        "A core is as fast as the measured one, and encoding goes on as many as there are: "
        "memory and the hand-over between processes keep up.",
        f"A node reads and writes {cluster.megabytes_per_second:g} MB/s, all at once; opening the "
        "14 million files of a tree costs what it did in the page cache.",
        "The published conversion has its tree already; one process for each LMDB writes it.",
    ]


def main() -> None:
    """Print the estimate and its assumptions."""
    parser = argparse.ArgumentParser(description="Hours for the full data set.")
    parser.add_argument("result", type=Path, help="what archive.py wrote")
    parser.add_argument("--cores", type=int, default=32, help="of a node")
    parser.add_argument("--nodes", type=int, default=10, help="of the cluster")
    parser.add_argument("--megabytes-per-second", type=float, default=500.0, help="of a node")
    options = parser.parse_args()
    clusters = [
        Cluster(nodes=nodes, cores=options.cores,
                megabytes_per_second=options.megabytes_per_second)
        for nodes in (1, options.nodes)
    ]  # fmt: skip
    print(table(rows_of(json.loads(options.result.read_text())["rows"], clusters)))
    print("\nAssumptions:")
    for text in assumptions(clusters[0]):
        print(f"- {text}")


if __name__ == "__main__":
    main()
