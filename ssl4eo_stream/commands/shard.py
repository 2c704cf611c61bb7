"""ssl4eo-shard: turn GeoTIFFs into shards that a loader streams, check them, index others'."""

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from ssl4eo_stream.bands import ProductName
from ssl4eo_stream.errors import Ssl4eoError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.build import Built, build
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST
from ssl4eo_stream.shard.pack import OnMissing, ShardDone
from ssl4eo_stream.shard.reindex import reindex
from ssl4eo_stream.shard.verify import verify

USAGE = 2
INTERRUPTED = 130
CPUS = os.cpu_count() or 1
Workers = Annotated[int, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Build:
    """Write the shards of one product of a GeoTIFF tree.

    SRC holds s1/, s2a/ or s2c/, each with a folder per location (6 or 7 digits), in it a folder
    per date, in it one GeoTIFF per band and perhaps metadata.json; or SRC is one such product's
    folder. DEST gets tars of 512 ids each, index.parquet (GeoParquet: a row per location) and, last
    of all, manifest.json, which makes it a data set. Every date is one GeoTIFF, whose pages keep
    the bands at their native 10, 20 and 60 m.

    Stop it whenever you like: the same command goes on where it stopped, and on a finished DEST it
    makes again only the shards whose locations were added or removed. It looks at ids, not at
    pixels: to renew a shard whose files changed, remove its tar first. The same input gives the
    same bytes on any machine. One build at a time per DEST.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """The tree, or one product's folder of it."""
    dest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DEST")]
    """Folder for the shards of this one product; made if missing."""
    product: ProductName
    """Sentinel-1 (s1: VV, VH), Sentinel-2 L2A (s2a: 12 bands) or L1C (s2c: 13 bands)."""
    codec: Annotated[str, tyro.conf.arg(metavar="jpeg:Q|zstd|zstd16")] = "jpeg:90"
    """How pixels are kept; in brackets, KB a Sentinel-2 patch of a town.
    jpeg:Q: lossy bytes of quality Q, 1-100 (90: 85, 75: 48).
    zstd: lossless bytes (211).
    zstd16: the source's own values, uint16 DN or float32 dB (542)."""
    samples_per_shard: Annotated[int, tyro.conf.arg(metavar="N")] = 512
    """Ids per shard; shard number = id // this. Keep it the same for products trained together."""
    workers: Workers = CPUS
    """Processes; 1 works in this one. Each needs about 300 MB."""
    locations: Annotated[Path | None, tyro.conf.arg(metavar="IDS.csv")] = None
    """Take these locations alone: a CSV file with a column `id`, or an id a line."""
    on_missing: OnMissing = "error"
    """What to do about a location that can't be had whole.
    error: stop at the first. skip: leave it out, and list it in DEST/skipped.jsonl.
    Such are: a band missing, cut, of the wrong size or type; no date at all;
    named by IDS.csv, or there in another product of SRC, but not in this one
    (give the product's own folder as SRC to look at that alone).
    Fewer dates than other locations are fine."""


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the console script. Returns the exit code."""
    options = tyro.cli(
        Annotated[Build, tyro.conf.subcommand("build")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Index, tyro.conf.subcommand("index")],
        prog="ssl4eo-shard",
        description=__doc__,
        args=arguments,
    )
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        match options:
            case Build():
                return _build(options)
            case Verify():
                return _verify(options)
            case Index():
                return _index(options)
    except Ssl4eoError as error:
        sys.stderr.write(f"ssl4eo-shard: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("ssl4eo-shard: stopped; run the same command again to go on.\n")
        return INTERRUPTED


def _build(options: Build) -> int:
    try:
        Codec.parse(options.codec)
        if options.samples_per_shard < 1:
            raise ValueError(f"--samples-per-shard is {options.samples_per_shard}; give 1 or more.")
    except ValueError as error:
        sys.stderr.write(f"ssl4eo-shard: {error}\n")
        return USAGE
    start = time.monotonic()
    bytes_read = 0
    with _bar() as bar:

        def begin(locations: int) -> None:
            bar.reset(total=locations)

        def advance(shard: ShardDone) -> None:
            nonlocal bytes_read
            bytes_read += shard.bytes_read
            rate = bytes_read / 1e6 / (time.monotonic() - start)
            bar.set_postfix_str(f"{rate:.1f} MB/s read", refresh=False)
            bar.update(shard.locations + len(shard.skipped))

        built = build(
            options.source,
            options.dest,
            product=options.product,
            codec=options.codec,
            samples_per_shard=options.samples_per_shard,
            workers=options.workers,
            locations=options.locations,
            on_missing=options.on_missing,
            on_start=begin,
            on_shard=advance,
        )
    sys.stdout.write(_summary(built, seconds=time.monotonic() - start) + "\n")
    return 0


def _summary(built: Built, *, seconds: float) -> str:
    manifest = built.manifest
    size, shards = sum(shard.bytes for shard in manifest.shards), len(manifest.shards)
    skipped = f", {len(built.skipped)} skipped (skipped.jsonl)" if built.skipped else ""
    return (
        f"{manifest.product} {manifest.codec}: shards {shards} ({built.built} written, "
        f"{built.kept} kept), locations {manifest.locations}{skipped}, patches {manifest.patches}, "
        f"{size / 1e6:.1f} MB, {size / manifest.patches / 1e3:.1f} KB a patch; "
        f"read {built.bytes_read / 1e6:.1f} MB in {seconds:.1f} s, "
        f"{built.bytes_read / 1e6 / seconds:.1f} MB/s"
    )


def _verify(options: Verify) -> int:
    with _bar() as bar:

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


def _index(options: Index) -> int:
    start = time.monotonic()
    with _bar(unit="B", scale=True) as bar:

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


def _bar(*, unit: str = " locations", scale: bool = False) -> tqdm:
    """A progress bar on stderr; a line every half minute where that is a file."""
    every = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(unit=unit, unit_scale=scale, mininterval=every, maxinterval=every, delay=0.1,
                file=sys.stderr)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
