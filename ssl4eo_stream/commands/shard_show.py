"""`ssl4eo-shard show`: one HTML page about what shards hold."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ssl4eo_stream.commands.arguments import USAGE, check_writable, progress_bar, write_file
from ssl4eo_stream.shard.show import gather, open_all


@dataclass(frozen=True, kw_only=True)
class Show:
    """Draw what the shards at URL hold, in one HTML page.

    A world map of the locations, their dates, cloud cover, a histogram of each band beside the
    paper's mean and standard deviation, false-colour pictures of some locations over their dates,
    codec and sizes, and what is missing. Pixels are read of a sample only. With several URLs, a
    product each, the pictures of a location stand one above the other, date by date.

    The page needs no network: mail it, or put it on a wiki.
    """

    urls: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="URL [URL …]")]
    """Folders of the shards, each of another product: path, s3://, gs://, az:// or http(s)://."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The page; PRODUCT.html if not given, s2c-s1.html for several."""
    patches: Annotated[int, tyro.conf.arg(metavar="N")] = 512
    """Patches of each product that the histograms are of, spread evenly over its shards."""
    locations: Annotated[int, tyro.conf.arg(metavar="N")] = 6
    """Locations to draw, spread evenly over those that all products have; 0 draws none."""
    ids: Annotated[tuple[int, ...], tyro.conf.arg(metavar="ID [ID …]")] = ()
    """Draw these locations instead."""


def run(options: Show) -> int:
    """Draw, with a bar; returns the exit code.

    Raises:
        StorageError: FILE can't be written, which is found before any pixel is read.
    """
    wrong = (
        "give the URL of a folder of shards" if not options.urls
        else f"--patches is {options.patches}; give 1 or more" if options.patches < 1
        else f"--locations is {options.locations}; give 0 or more" if options.locations < 0
        else None
    )  # fmt: skip
    if wrong:
        sys.stderr.write(f"ssl4eo-shard: {wrong}.\n")
        return USAGE
    start = time.monotonic()
    holdings = open_all(options.urls)
    names = [holding.manifest.product for holding in holdings]
    output = options.output or Path("-".join(names) + ".html")
    check_writable(output, flag="--output")
    with progress_bar(unit=" patches") as bar:

        def begin(patches: int) -> None:
            bar.reset(total=patches)

        def advance(patches: int) -> None:
            bar.update(patches)

        overview = gather(
            holdings,
            patches=options.patches,
            locations=options.locations,
            ids=options.ids,
            on_start=begin,
            on_patch=advance,
        )
    from ssl4eo_stream.shard.page import page  # its matplotlib is of no use to others

    text = page(overview)
    write_file(output, text, flag="--output")
    sys.stdout.write(
        f"{output}: {', '.join(names)}, locations {max(len(each.index) for each in holdings)}, "
        f"patches {sum(each.manifest.patches for each in holdings)}; histograms of "
        f"{sum(overview.sampled)} patches, {len(overview.sites)} locations drawn; "
        f"{len(text.encode()) / 1e6:.1f} MB in {time.monotonic() - start:.1f} s\n"
    )
    return 0
