"""`ssl4eo-shard verify`: is every byte of the shards what manifest and index say?"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ssl4eo_stream.commands.arguments import CPUS, Workers, progress_bar
from ssl4eo_stream.shard.verify import verify


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read every byte of the shards in DEST back and compare it with manifest and index.

    Checks the hashes of tars and index, the checksum and place of every GeoTIFF, the sizes of its
    pages, and that nothing is left over from a build that was killed. Lists what is wrong and exits
    with 1 if anything is.
    """

    dest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DEST")]
    """Folder that ssl4eo-shard build has filled."""
    workers: Workers = CPUS
    """Processes; 1 works in this one."""


def run(options: Verify) -> int:
    """Verify, with a bar; returns the exit code."""
    with progress_bar() as bar:

        def advance(locations: int) -> None:
            bar.update(locations)

        manifest, problems = verify(options.dest, workers=options.workers, on_shard=advance)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    size = sum(shard.bytes for shard in manifest.shards)
    sys.stdout.write(
        f"{options.dest}: shards {len(manifest.shards)}, locations {manifest.locations}, "
        f"patches {manifest.patches}, {size / 1e6:.1f} MB read back; problems {len(problems)}\n"
    )
    return 1 if problems else 0
