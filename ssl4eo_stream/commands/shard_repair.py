"""`ssl4eo-shard repair`: bad shards again from their source, index and manifest from shards."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from ssl4eo_stream.bands import ProductName
from ssl4eo_stream.commands.arguments import CPUS, Workers, progress_bar
from ssl4eo_stream.commands.shard_verify import tell
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST
from ssl4eo_stream.shard.pack import ShardDone
from ssl4eo_stream.shard.rebuild import Settings, Watch
from ssl4eo_stream.shard.repair import Repaired, repair


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Verify the shards at URL, and make again what is wrong, and no more.

    Bad or missing shards are built again from SRC, with the manifest's settings and the index's
    locations: of the same source come the same bytes. Good shards are not touched. A bad index or
    manifest is made again from the shards, without any source. A tar that is not of the data set is
    put aside as NAME.tar.unlisted. Nothing is removed before there is what replaces it: stop it
    whenever you like, the same command goes on.

    A data set on a bucket or web server is not written to: what is made again goes to --output, for
    you to upload.
    """

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """Folder of the shards: path, s3://, gs://, az:// or http(s)://."""
    source: Annotated[str | None, tyro.conf.arg(metavar="SRC")] = None
    """What the shards were built from: the tree, or one product's folder of it; or an archive of
    it, path or URL, of which only bad shards' locations are taken. Needed if shards are bad."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for what is made again, where URL is not a local folder."""
    product: ProductName | None = None
    """What the shards were built with; needed if shards are bad and the manifest is lost."""
    codec: Annotated[str | None, tyro.conf.arg(metavar="jpeg:Q|zstd|zstd16")] = None
    """The same."""
    samples_per_shard: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The same."""
    workers: Workers = CPUS
    """Processes; 1 works in this one. Each needs about 300 MB."""


def run(options: Repair) -> int:
    """Repair, with a bar; returns the exit code."""
    settings = Settings(
        product=options.product, codec=options.codec, samples_per_shard=options.samples_per_shard
    )
    with progress_bar(unit="B", scale=True) as bar:
        done = repair(
            options.url, source=options.source, output=options.output, settings=settings,
            workers=options.workers, watch=_watch(bar),
        )  # fmt: skip
    tell(done.found.url, done.found.problems)
    if done.left.problems and done.left is not done.found:
        sys.stderr.write("Still wrong:\n")
        tell(done.left.url, done.left.problems)
    sys.stdout.write(_summary(done) + "\n")
    return 1 if done.left.problems else 0


def _watch(bar: tqdm) -> Watch:
    archive_bytes = 0

    def start(total: int, *, unit: str) -> None:
        bar.unit, bar.unit_scale = unit, unit == "B"
        bar.reset(total=total)

    def read(done: int, size: int) -> None:
        nonlocal archive_bytes
        if not archive_bytes:
            start(size, unit="B")
        bar.update(done - archive_bytes)
        archive_bytes = done

    def advance(num_bytes: int) -> None:
        bar.update(num_bytes)

    def packed(shard: ShardDone) -> None:
        bar.update(shard.locations + len(shard.skipped))

    return Watch(
        on_bytes=lambda total: start(total, unit="B"),
        on_tar=advance,
        on_read=read,
        on_locations=lambda total: start(total, unit=" locations"),
        on_shard=packed,
    )


def _summary(done: Repaired) -> str:
    found = done.found
    if not found.problems:
        return f"{found.url}: shards {len(found.shards)}; nothing to mend"
    parts = [f"shards {len(found.shards)}, {len(done.rebuilt)} of them made again"]
    if done.changed:
        parts.append(f"{len(done.changed)} of these NOT AS BEFORE: {', '.join(done.changed)}")
    if done.reindexed:
        parts.append(f"{INDEX} and {MANIFEST} made again")
    if found.folder is None:
        made = [*done.rebuilt, *([INDEX, MANIFEST] if done.reindexed else [])]
        then = "index" if done.needs_index else "verify"
        parts.append(f"upload {', '.join(made)} from {done.folder}, then run ssl4eo-shard {then}")
    else:
        parts.append(f"problems left {len(done.left.problems)}")
    return f"{found.url}: {'; '.join(parts)}"
