"""Run a function in several gloo processes and get every rank's answer."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 120
MEETINGS = 3
"""Attempts to connect: gloo's fail now and then on a busy machine (pytorch/pytorch#53270)."""

# children are forked from a server that has imported torch once: a second instead of five
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch", "timm", "ssl4eo_stream.methods.moco"])


class UnmetError(Exception):
    """Ranks could not connect."""


def run_ranks(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """Return `function(*arguments)` of every rank; it is a module's function and may use the group.

    Processes meet in a file, so no port is needed.
    """
    for _ in range(MEETINGS - 1):
        with suppress(UnmetError):
            return _run_once(function, world_size, arguments)
    return _run_once(function, world_size, arguments)


def _run_once(function: Callable[..., Any], world_size: int, arguments: tuple[Any, ...]) -> list:
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_run,
                args=(theirs, Path(folder, "store"), rank, world_size, function, arguments),
                daemon=True,
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            return _collect(pipes)
        finally:
            for process in processes:
                process.join(timeout=10)
                process.kill()
                process.join()


def _collect(pipes: list[Connection]) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        open_pipes = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(open_pipes, timeout=TIMEOUT_SECONDS)
        assert ready, f"no rank answered within {TIMEOUT_SECONDS} seconds"
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                error, value = pipe.recv()
            except EOFError:
                raise AssertionError(f"rank {rank} died without a word") from None
            if isinstance(error, UnmetError):
                raise error
            assert error is None, f"rank {rank} failed:\n{error}"
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _run(
    pipe: Connection,
    store: Path,
    rank: int,
    world_size: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["TORCH_DIST_INIT_BARRIER"] = "1"  # none goes ahead, and ends, before all have met
    try:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size
        )
    except RuntimeError as error:
        pipe.send((UnmetError(str(error)), None))
        return
    try:
        pipe.send((None, function(*arguments)))
    except Exception:  # noqa: BLE001 - the parent raises it
        pipe.send((traceback.format_exc(), None))
    finally:
        torch.distributed.destroy_process_group()
