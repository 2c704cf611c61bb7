"""`ssl4eo-shard index`: index and manifest for tars that are there already."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ssl4eo_stream.bands import ProductName
from ssl4eo_stream.commands.arguments import CPUS, Workers, progress_bar
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST
from ssl4eo_stream.shard.reindex import reindex


@dataclass(frozen=True, kw_only=True)
class Index:
    """Make index.parquet and manifest.json for tars that are there already.

    For shards of an older release, or made by other tools: tars of GeoTIFFs KEY.t0.tif, KEY.t1.tif,
    … (KEY a number, a date each, all bands of one product at their native sizes) and, if there are
    any, KEY.json with lon, lat and dates. Every tar is read once, in ranges of 16 MiB, and left as
    it is; other members are passed over and told of.

    Of the shards that ssl4eo-shard build wrote, this makes again the very files that it wrote.
    Bytes are taken to mean what build makes them mean (Sentinel-2: DN 0-10,000; Sentinel-1: mean
    ± 2 standard deviations in dB), unless an older manifest beside them says otherwise.
    """

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """Folder of the tars (path, s3://, gs://, az://), or the tars by a pattern in braces, which
    http(s):// always needs: https://host/s2c-{000000..000489}.tar."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the two files; beside the tars if not given. Needed where those are not in a local
    folder: upload both to them then, index.parquet first."""
    product: ProductName | None = None
    """The product that it has to be; found by the GeoTIFFs' pages if not given."""
    samples_per_shard: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Ids per shard that build was told, where names, ids and an older manifest leave it open."""
    workers: Workers = CPUS
    """Processes, each reading one tar at a time; 1 works in this one. Each needs about 200 MB."""


def run(options: Index) -> int:
    """Index, with a bar; returns the exit code."""
    start = time.monotonic()
    with progress_bar(unit="B", scale=True) as bar:

        def begin(num_bytes: int) -> None:
            bar.reset(total=num_bytes)

        def advance(num_bytes: int) -> None:
            bar.update(num_bytes)

        done = reindex(
            options.url,
            output=options.output,
            product=options.product,
            samples_per_shard=options.samples_per_shard,
            workers=options.workers,
            on_start=begin,
            on_shard=advance,
        )
    for name, members in done.ignored.items():
        some = ", ".join(members[:3]) + (", …" if len(members) > 3 else "")
        sys.stderr.write(f"{name}: {len(members)} members passed over: {some}\n")
    manifest, seconds = done.manifest, time.monotonic() - start
    size = sum(shard.bytes for shard in manifest.shards)
    sys.stdout.write(
        f"{manifest.product} {manifest.codec}: shards {len(manifest.shards)}, locations "
        f"{manifest.locations}, patches {manifest.patches}, {size / 1e6:.1f} MB read in "
        f"{seconds:.1f} s, {size / 1e6 / seconds:.1f} MB/s; members passed over "
        f"{sum(map(len, done.ignored.values()))}; {INDEX} and {MANIFEST} are in {done.folder}\n"
    )
    return 0
