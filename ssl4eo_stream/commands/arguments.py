"""What the subcommands have in common: exit codes, flags, a progress bar."""

import os
import sys
from typing import Annotated

import tyro
from tqdm import tqdm

USAGE = 2
INTERRUPTED = 130
CPUS = os.cpu_count() or 1
Workers = Annotated[int, tyro.conf.arg(metavar="N")]


def progress_bar(*, unit: str = " locations", scale: bool = False) -> tqdm:
    """A progress bar on stderr; a line every half minute where that is a file."""
    every = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(unit=unit, unit_scale=scale, mininterval=every, maxinterval=every, delay=0.1,
                file=sys.stderr)  # fmt: skip
