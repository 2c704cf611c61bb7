"""`ssl4eo-shard stats`: mean, standard deviation, range and histogram of each band."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.commands.arguments import Labour, check_writable, progress_bar, write_file
from ssl4eo_stream.shard.stats import bins, stats


@dataclass(frozen=True, kw_only=True)
class Stats(Labour):
    """Read all pixels of the shards at URL once, and print what each band is like.

    Mean and standard deviation are in digital numbers (Sentinel-2) or dB (Sentinel-1), beside those
    that the paper's tables XII and XIII give for the whole of SSL4EO-S12. Every pixel counts once,
    at its band's native size. With --json also a histogram of 256 bins, one per stored byte.
    """

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """Folder of the shards: path, s3://, gs://, az:// or http(s)://."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write everything there too, histograms included."""


def run(options: Stats) -> int:
    """Count, with a bar; returns the exit code.

    Raises:
        StorageError: FILE can't be written, which is found before anything is read.
    """
    if options.json is not None:
        # What an earlier run left stays until this one is done.
        check_writable(options.json, flag="--json")
    with progress_bar(unit=" patches") as bar:

        def begin(patches: int) -> None:
            bar.reset(total=patches)

        def advance(patches: int) -> None:
            bar.update(patches)

        manifest, found = stats(
            options.url, workers=options.workforce, on_start=begin, on_shard=advance
        )
    bands = PRODUCTS[manifest.product].bands
    lines = [f"{'band':5}{'pixels':>15}{'mean':>10}{'std':>10}{'min':>10}{'max':>10}{'paper':>19}"]
    lines += [
        f"{band.name:5}{each.count:15,}{each.mean:10.2f}{each.std:10.2f}{each.low:10.1f}"
        f"{each.high:10.1f}{band.mean:10.2f} ±{band.std:7.2f}"
        for band, each in zip(bands, found, strict=True)
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json is not None:
        rows = [
            {"band": band.name, "pixels": each.count, "mean": each.mean, "std": each.std,
             "min": each.low, "max": each.high, "scale": scale, "offset": offset,
             "histogram": each.histogram.tolist()}
            for band, each, (scale, offset) in zip(bands, found, bins(manifest), strict=True)
        ]  # fmt: skip
        content = {
            "product": manifest.product, "codec": manifest.codec, "manifest": manifest.hash,
            "locations": manifest.locations, "patches": manifest.patches, "bands": rows,
        }  # fmt: skip
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        write_file(options.json, text, flag="--json")
    return 0
