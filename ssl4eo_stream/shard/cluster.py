"""Who does the work: this process, processes of this machine, or a cluster by Dask.

All take the same tasks and give the same bytes. A task is a shard, which is written whole or not at
all, so one that is done twice, or left by a machine that died, does no harm: Dask gives it to
another worker, and what a lost scheduler leaves undone is done by the same command again.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, getsignal, signal
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from ssl4eo_stream.errors import ClusterError
from ssl4eo_stream.shard.processes import worker_pool

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 30
"""Longest wait for a scheduler."""
SLURM = {"partition": "queue", "account": "account", "time": "walltime", "cores": "cores",
         "memory": "memory"}  # fmt: skip
"""Our word -> dask-jobqueue's; every other word is handed to sbatch as --WORD=VALUE."""
SLURM_DEFAULTS = {"cores": "32", "memory": "64GB", "time": "04:00:00", "jobs": "1"}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Workers that Dask finds or starts.

    Raises:
        ClusterError: Neither or both of them are given, or Slurm's words lack a value.
    """

    dask: str | None = None
    """Address of a scheduler, `tcp://HOST:8786`, or `local` for one of this machine's own."""
    slurm: tuple[str, ...] = ()
    """`KEY=VALUE` of jobs to start: `partition`, `account`, `time`, `cores` and `memory` of a job,
    `jobs`, and whatever else sbatch knows."""
    processes: int = 1
    """Of `local`."""

    def __post_init__(self) -> None:
        if (self.dask is None) == (not self.slurm):
            raise ClusterError("Give --dask or --slurm, not both: each brings its own scheduler.")
        for word in self.slurm:
            if not all(word.partition("=")):
                raise ClusterError(f"--slurm {word}: write KEY=VALUE, as in partition=cpu jobs=10.")
        if not self.settings["jobs"].isdecimal() or not self.settings["cores"].isdecimal():
            raise ClusterError("--slurm: jobs and cores are whole numbers.")

    @property
    def settings(self) -> dict[str, str]:
        """Slurm's words and values, defaults among them."""
        return SLURM_DEFAULTS | dict(word.split("=", 1) for word in self.slurm)


@contextmanager
def executor_of(
    workers: int | Cluster, *, slots_each: int = 0
) -> Iterator[tuple[Executor | None, int]]:
    """Find those who do the work; whoever leaves the block early ends it.

    Args:
        workers: Processes of this machine, of which 0 and 1 mean this one; or a cluster.
        slots_each: Parcels per process that there is to be room for in shared memory.

    Yields:
        Who takes tasks, None for this process; and how many are done at a time.

    Raises:
        ShardError: A process died.
        ClusterError: No scheduler answers, it was lost, or a task killed several workers.
    """
    if isinstance(workers, int):
        if workers <= 1:
            yield None, 1
            return
        with worker_pool(workers, slots=slots_each * workers) as pool:
            yield pool, workers
        return
    with _client(workers) as client:
        executor = client.get_executor(pure=False)
        there: Any = client.ncores()  # a coroutine in asynchronous clients alone
        try:
            yield executor, max(sum(there.values()), _wanted(workers))
        except CancelledError as error:
            raise ClusterError(
                "Dask's scheduler was lost. Run the same command again when there is one: finished "
                "shards are kept."
            ) from error
        except Exception as error:
            if type(error).__name__ != "KilledWorker":
                raise
            raise ClusterError(
                f"{error} Most likely a worker had too little memory, about 500 MB each are "
                "needed; its log says. Run the same command again: finished shards are kept."
            ) from error
        finally:
            executor.shutdown(wait=False)


def _wanted(cluster: Cluster) -> int:
    """Tasks that are to be done at a time once all workers are there."""
    if cluster.slurm:
        return int(cluster.settings["jobs"]) * int(cluster.settings["cores"])
    return cluster.processes if cluster.dask == "local" else 1


@contextmanager
def _client(cluster: Cluster) -> Iterator["Client"]:
    """Connect to a scheduler, or start one."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError(
            "Dask is not installed: pip install 'ssl4eo-stream[cluster]', here and on the workers."
        ) from error
    if cluster.dask is not None and cluster.dask != "local":
        try:
            client = Client(cluster.dask, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"No Dask scheduler answers at {cluster.dask}: {error}. Start one with dask "
                "scheduler, and dask worker --nthreads 1 --nworkers N where the work is to be done."
            ) from error
        with client:
            if not client.ncores():
                logger.warning("%s has no workers yet: waiting for some.", cluster.dask)
            yield client
        return
    with _started(cluster) as own, Client(own, set_as_default=False) as client:
        yield client


def _started(cluster: Cluster) -> Any:  # noqa: ANN401 - Dask's clusters have no common typed base
    """Start workers of this machine, or jobs."""
    if cluster.dask == "local":
        from distributed import LocalCluster

        no_dashboard: Any = None
        return LocalCluster(
            n_workers=cluster.processes, threads_per_worker=1, dashboard_address=no_dashboard
        )
    own = slurm_cluster(cluster)
    jobs = int(cluster.settings["jobs"])
    logger.warning("%d jobs are queued; shards are made as they start.", jobs)
    own.scale(jobs=jobs)
    return own


def slurm_cluster(cluster: Cluster) -> Any:  # noqa: ANN401 - the package has no types
    """Return a scheduler that starts workers as jobs, none of them yet.

    Raises:
        ClusterError: dask-jobqueue is not installed.
    """
    at_ctrl_c = getsignal(SIGINT)
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise ClusterError(
            "dask-jobqueue is not installed: pip install 'ssl4eo-stream[cluster]'."
        ) from error
    finally:  # its import lets Ctrl-C end the process as if all were done
        if current_thread() is main_thread():
            signal(SIGINT, at_ctrl_c)
    settings = cluster.settings
    known: dict[str, Any] = {
        SLURM[word]: value for word, value in settings.items() if word in SLURM
    }
    others = [f"--{w}={v}" for w, v in settings.items() if w not in SLURM and w != "jobs"]
    cores = int(known.pop("cores"))
    return SLURMCluster(cores=cores, processes=cores, job_extra_directives=others, **known)
