"""What the subcommands have in common: exit codes, flags, a progress bar."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.shard.cluster import Cluster

USAGE = 2
INTERRUPTED = 130
CPUS = os.cpu_count() or 1
Workers = Annotated[int, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True, kw_only=True)
class Labour:
    """Flags that say who does the work."""

    workers: Workers = CPUS
    """Processes of this machine; 1 works in this one. Each needs about 500 MB."""
    dask: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS|local")] = None
    """Address of a Dask scheduler (tcp://HOST:8786), whose workers do the work instead; or local,
    for --workers of this machine. They need this package, and see the same paths and credentials.
    One thread a worker is best: dask worker ADDRESS --nworkers 32 --nthreads 1."""
    slurm: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Start Slurm jobs that do the work: partition, account, time, cores, memory of a job, and
    jobs (defaults: time=04:00:00 cores=32 memory=64GB jobs=1); other words go to sbatch."""

    @property
    def workforce(self) -> int | Cluster:
        """Who it is."""
        if self.dask is None and not self.slurm:
            return self.workers
        return Cluster(dask=self.dask, slurm=self.slurm, processes=self.workers)


def progress_bar(*, unit: str = " locations", scale: bool = False) -> tqdm:
    """A progress bar on stderr; a line every half minute where that is a file."""
    every = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(unit=unit, unit_scale=scale, mininterval=every, maxinterval=every, delay=0.1,
                file=sys.stderr)  # fmt: skip


def check_writable(path: Path, *, flag: str) -> None:
    """Find out, before the work, whether `write_file` will be able to; leaves the path as it is.

    Raises:
        StorageError: It won't.
    """
    new = not path.exists()
    _write(path, "", flag=flag, mode="a")
    if new:
        path.unlink()


def write_file(path: Path, text: str, *, flag: str) -> None:
    """Write what a flag names.

    Raises:
        StorageError: It can't be written.
    """
    _write(path, text, flag=flag, mode="w")


def _write(path: Path, text: str, *, flag: str, mode: Literal["a", "w"]) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StorageError(
            f"{flag} {path} can't be written: {error.strerror}. Name a file in a folder that is "
            "there and yours."
        ) from error
