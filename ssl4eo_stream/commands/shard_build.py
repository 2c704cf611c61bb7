"""`ssl4eo-shard build`: a tree of GeoTIFFs -> shards."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ssl4eo_stream.bands import ProductName
from ssl4eo_stream.commands.arguments import USAGE, Labour, progress_bar
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.build import Built, Release, build
from ssl4eo_stream.shard.pack import OnMissing, ShardDone


@dataclass(frozen=True, kw_only=True)
class Build(Labour):
    """Write the shards of one product of a GeoTIFF tree, or of an archive of one.

    SRC holds s1/, s2a/ or s2c/, each with a folder per location (6 or 7 digits), in it a folder
    per date, in it one GeoTIFF per band and perhaps metadata.json; or SRC is one such product's
    folder. Or SRC is an archive of such a folder as it is published: s2_l1c.tar.gz, its pieces
    's2_l1c.tar.gz.part*' (in quotes), a plain .tar; also at s3://, gs://, az://, https://. That is
    read once, front to back, and never unpacked; DEST/.parts, or --scratch, needs the room of the
    shards meanwhile.

    Or, with --from v1.1, SRC is one product's tars of SSL4EO-S12 v1.1: a folder of them, one, or
    several by 'ssl4eos12_shard_*.tar' or 'ssl4eos12_shard_{000001..000477}.tar' (in quotes), path
    or URL.

    DEST gets tars of 512 ids each, index.parquet (GeoParquet: a row per location) and, last of all,
    manifest.json, which makes it a data set. Every date is one GeoTIFF, whose pages keep the bands
    at their native 10, 20 and 60 m.

    Stop it whenever you like: the same command goes on where it stopped, and on a finished DEST it
    makes again only the shards whose locations were added or removed. It looks at ids, not at
    pixels: to renew a shard whose files changed, remove its tar first. The same input gives the
    same bytes on any machine. One build at a time per DEST. On object storage a shard is written
    whole or not at all, from a temporary file in TMPDIR.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
    """The tree, or one product's folder of it; or path or URL of an archive, or of v1.1's tars."""
    dest: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DEST")]
    """Folder for the shards of this one product, made if missing; or s3://, gs://, az://."""
    product: ProductName
    """Sentinel-1 (s1: VV, VH), Sentinel-2 L2A (s2a: 12 bands) or L1C (s2c: 13 bands)."""
    codec: Annotated[str, tyro.conf.arg(metavar="jpeg:Q|zstd|zstd16")] = "jpeg:90"
    """How pixels are kept; in brackets, KB a Sentinel-2 patch of a town.
    jpeg:Q: lossy bytes of quality Q, 1-100 (90: 85, 75: 48).
    zstd: lossless bytes (211).
    zstd16: the source's own values, uint16 DN or float32 dB (542)."""
    samples_per_shard: Annotated[int, tyro.conf.arg(metavar="N")] = 512
    """Ids per shard; shard number = id // this. Keep it the same for products trained together."""
    release: Annotated[Release, tyro.conf.arg(name="from")] = "v1.0"
    """Release of SSL4EO-S12 that SRC is of. v1.0: the tree, or an archive of it.
    v1.1: tars with a KEY.zarr.zip per location, all bands at 10 m. Ids are those of v1.0; bands of
    20 and 60 m go back to their own size, by the mean of their pixels if these differ."""
    dn_offset: Literal[0, 1000] = 0
    """What Sentinel-2's digital numbers of --from v1.1 are raised by. It is subtracted, so shards
    always mean reflectance 0-1 by DN 0-10,000, and noted in the manifest.
    0: as released in tars. 1000: as in its earlier Zarr files.
    A tar that looks otherwise stops the build."""
    locations: Annotated[Path | None, tyro.conf.arg(metavar="IDS.csv")] = None
    """Take these locations alone: a CSV file with a column `id`, or an id a line."""
    scratch: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the unfinished shards of an archive; needed where DEST is no folder."""
    on_missing: OnMissing = "error"
    """What to do about a location that can't be had whole.
    error: stop at the first. skip: leave it out, and list it in DEST/skipped.jsonl.
    Such are: a band missing, cut, of the wrong size or type; no date at all;
    named by IDS.csv, or there in another product of SRC, but not in this one
    (give the product's own folder as SRC to look at that alone).
    Fewer dates than other locations are fine."""


def run(options: Build) -> int:
    """Build, with a bar; returns the exit code."""
    try:
        Codec.parse(options.codec)
        if options.samples_per_shard < 1:
            raise ValueError(f"--samples-per-shard is {options.samples_per_shard}; give 1 or more.")
        if options.dn_offset and (options.release == "v1.0" or options.product == "s1"):
            raise ValueError(
                "--dn-offset is for Sentinel-2 of --from v1.1: v1.0 has no offset, dB neither."
            )
    except ValueError as error:
        sys.stderr.write(f"ssl4eo-shard: {error}\n")
        return USAGE
    start = time.monotonic()
    bytes_read = 0
    with progress_bar() as bar:

        def read(done: int, size: int) -> None:
            nonlocal bytes_read
            if not bytes_read:
                bar.unit, bar.unit_scale = "B", True
                bar.reset(total=size)
            bar.update(done - bytes_read)
            bytes_read = done

        def begin(locations: int) -> None:
            bar.unit, bar.unit_scale = " locations", False
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
            workers=options.workforce,
            locations=options.locations,
            scratch=options.scratch,
            on_missing=options.on_missing,
            release=options.release,
            dn_offset=options.dn_offset,
            on_read=read,
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
