"""`ssl4eo-shard verify`: is every byte of the shards what manifest and index say?"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ssl4eo_stream.commands.arguments import CPUS, Workers, check_writable, progress_bar, write_file
from ssl4eo_stream.shard.listing import Problem
from ssl4eo_stream.shard.verify import Verified, verify


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read every byte of the shards at URL once, and compare it with manifest and index.

    Checks the hashes of tars and index, the checksum and place of every GeoTIFF, the sizes of its
    pages, the JSONs, and that nothing is left over from a build that was killed (which needs a
    folder that can be listed, so not over http). Says what is wrong and what to do about it, and
    exits with 1 if anything is.
    """

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """Folder of the shards: path, s3://, gs://, az:// or http(s)://."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the problems there too: a list of objects with file, kind (manifest, index, shard,
    unlisted, leftover), problem and remedy."""
    workers: Workers = CPUS
    """Processes, each reading one shard at a time; 1 works in this one. Each needs about 200 MB."""


def run(options: Verify) -> int:
    """Verify, with a bar; returns the exit code.

    Raises:
        StorageError: FILE can't be written, which is found before anything is read.
    """
    if options.json is not None:
        check_writable(options.json, flag="--json")
    start = time.monotonic()
    with progress_bar(unit="B", scale=True) as bar:

        def begin(num_bytes: int) -> None:
            bar.reset(total=num_bytes)

        def advance(num_bytes: int) -> None:
            bar.update(num_bytes)

        found = verify(options.url, workers=options.workers, on_start=begin, on_shard=advance)
    tell(found.url, found.problems)
    if options.json is not None:
        problems = [vars(problem) for problem in found.problems]
        write_file(options.json, json.dumps(problems, indent=1) + "\n", flag="--json")
    sys.stdout.write(_summary(found, seconds=time.monotonic() - start) + "\n")
    return 1 if found.problems else 0


def tell(url: str, problems: Sequence[Problem]) -> None:
    """Write a line for each problem to stderr."""
    for each in problems:
        sys.stderr.write(f"{url}/{each.file}: {each.problem}. {each.remedy}.\n")


def _summary(found: Verified, *, seconds: float) -> str:
    manifest = found.manifest
    held = f"locations {manifest.locations}, patches {manifest.patches}, " if manifest else ""
    return (
        f"{found.url}: shards {len(found.shards)}, {held}{found.bytes_read / 1e6:.1f} MB read in "
        f"{seconds:.1f} s, {found.bytes_read / 1e6 / seconds:.1f} MB/s; "
        f"bad shards {len(found.bad)}, problems {len(found.problems)}"
    )
