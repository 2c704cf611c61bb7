"""The commands that `archive.py` compares: how each is run, and what is taken down of it."""

import argparse
import hashlib
import json
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from archive_material import DATES, Grown, Layout
from watched import Seen, watch

BY_ID, AT_RANDOM, TREE = "archive, in order of ids", "archive, in random order", "tree"
OURS = (BY_ID, AT_RANDOM, TREE)
"""Sources of `ssl4eo-shard build`."""
PUBLISHED, UNPACKING = "published conversion", "tar xzf"
SOURCES = (*OURS, PUBLISHED, UNPACKING)
EXPECTED = re.compile(
    r"dest/(s2c-\d{6}\.tar|index\.parquet|manifest\.json)"
    r"|dest/\.parts/(s2c-\d{6}\.(unfinished\.tar|tar\.parquet)|settings\.json|ended\.json)"
    r"|dest/(\.parts/)?\.[^/]+\.tmp-[^/]+"
)
"""Files that a build may have: shards, finished or not, and what is said of them."""
ANYTHING = re.compile(".*")


@dataclass(frozen=True)
class Line:
    """One line of the table: a command."""

    layout: Layout
    """How the source's files store their pixels."""
    source: str
    """One of `SOURCES`."""
    workers: int
    """Processes that it is told to use, and its cores."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of a command."""

    samples: int
    """Patches."""
    seconds: float
    """How long they took."""
    read_bytes: int
    """Size of what it read: of the archive, or of the tree's files."""
    written_bytes: int
    """Size of what it wrote."""
    digest: str
    """Of what a build wrote; empty for others."""
    seen: Seen
    """What was seen of it."""

    @property
    def per_second(self) -> float:
        """Samples/s."""
        return self.samples / self.seconds


def measure(line: Line, grown: Grown, *, options: argparse.Namespace) -> Measured:
    """Run a command in a folder of its own, which is removed.

    Raises:
        RuntimeError: It failed, or made files that it should not.
    """
    run = options.scratch / "run"
    shutil.rmtree(run, ignore_errors=True)
    dest = run / "dest"
    if line.source not in OURS:
        grown = replace(grown, locations=min(options.published_locations, grown.locations))
    source = grown.tree
    if line.source in (BY_ID, AT_RANDOM, UNPACKING):
        source = grown.archive("random" if line.source == AT_RANDOM else "id")
    if line.source == PUBLISHED:
        script = Path(__file__).parent / "conversion.py"
        command = [sys.executable, str(script), str(source), str(dest)]
        command += ["--workers", str(line.workers)]
    elif line.source == UNPACKING:
        dest.mkdir(parents=True)
        command = ["tar", "xzf", str(source), "-C", str(dest)]
    else:
        command = [sys.executable, "-m", "ssl4eo_stream.commands.shard", "build"]
        command += [str(source), str(dest), "--product", "s2c", "--codec", options.codec]
        command += ["--samples-per-shard", str(options.samples_per_shard)]
        command += ["--workers", str(line.workers)]
    expected = EXPECTED if line.source in OURS else ANYTHING
    seen = watch(command, cores=line.workers, folder=run, expected=expected)
    if seen.foreign:
        raise RuntimeError(f"{line} made files that are no shards: {sorted(seen.foreign)[:5]}")
    if line.source == PUBLISHED:  # its own clocks leave out the start
        said = json.loads(seen.output.splitlines()[-1])
        seen.seconds, seen.cpu_seconds = said["seconds"], said["cpu_seconds"]
        seen.main_cpu_seconds = said["main_cpu_seconds"]
    measured = Measured(
        samples=grown.locations * DATES,
        seconds=seen.seconds,
        read_bytes=source.stat().st_size if source.is_file() else grown.bytes,
        written_bytes=sum(path.stat().st_size for path in dest.rglob("*") if path.is_file()),
        digest=digest_of(dest) if line.source in OURS else "",
        seen=seen,
    )
    shutil.rmtree(run)
    return measured


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of the names and SHA-256 of a folder's files."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def same_bytes(found: dict[Line, list[Measured]]) -> None:
    """See whether all builds of equally many samples wrote the same, in every repeat.

    Raises:
        RuntimeError: They did not.
    """
    digests: dict[int, dict[str, Line]] = {}
    for line, repeats in found.items():
        for each in repeats:
            if each.digest:
                digests.setdefault(each.samples, {})[each.digest] = line
    for samples, lines in digests.items():
        if len(lines) > 1:
            raise RuntimeError(f"{samples} samples came out differently: {list(lines.values())}")
