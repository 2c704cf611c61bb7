"""Everything that a run needs to go on exactly, in one file that is either whole or not there."""

import logging
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from ssl4eo_stream import distributed
from ssl4eo_stream.errors import CheckpointError
from ssl4eo_stream.train.run import MACHINE_FIELDS, Run

logger = logging.getLogger(__name__)

M = TypeVar("M")

FORMAT = 1
NAME = re.compile(r"checkpoint-(\d+)(-epoch-\d+)?\.pt")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state behind one step. Only tensors and plain values, so that loading runs no code."""

    step: int
    """Steps done."""
    model: dict[str, Any]
    """State of the method: networks, queues, generators; rank 0's batch norm statistics."""
    optimizer: dict[str, Any]
    """State of the optimizer."""
    loader: dict[str, Any]
    """Place in the data behind that step; knows the data set's hash."""
    rng: list[dict[str, Any]]
    """Every rank's generator states in rank order."""
    run: dict[str, Any]
    """The run's configuration as plain values."""
    recipe: str
    """Text of the recipe's file."""
    versions: dict[str, str]
    """Versions of the packages that decide the numbers."""
    format: int = FORMAT
    """Version of this file's form."""

    def write(self, path: Path) -> None:
        """Write the file under a temporary name, bring it to disk, then rename it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            torch.save(vars(self), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read a file onto the CPU.

        Raises:
            CheckpointError: It is missing, damaged, or of another form.
        """
        try:
            fields = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"{path} is missing or damaged: {reason} Resume from an older checkpoint."
            ) from error
        found = fields.get("format") if isinstance(fields, dict) else None
        if found != FORMAT:
            raise CheckpointError(
                f"{path} has checkpoint format {found}; this release reads {FORMAT}. "
                "Use the release that wrote it, or start a new run."
            )
        return cls(**fields)


def checkpoints(folder: Path) -> list[Path]:
    """Return a folder's checkpoints, newest (most steps) first."""
    found = [path for path in folder.glob("checkpoint-*.pt") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's name states."""
    match = NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def save(checkpoint: Checkpoint, *, folder: Path, keep: int, epoch_done: int | None) -> Path:
    """Write a checkpoint and remove what is no longer wanted; rank 0 alone calls this.

    Args:
        checkpoint: What to write.
        folder: Where to.
        keep: How many of the newest stay.
        epoch_done: Number of epochs that this checkpoint completes, if it is to stay for good.
    """
    suffix = "" if epoch_done is None else f"-epoch-{epoch_done:03d}"
    path = folder / f"checkpoint-{checkpoint.step:06d}{suffix}.pt"
    checkpoint.write(path)
    passing = [
        old
        for old in checkpoints(folder)
        if "epoch" not in old.name and step_of(old) <= checkpoint.step
    ]
    for old in [*passing[keep:], *folder.glob(".checkpoint-*.tmp")]:
        old.unlink()
    return path


def load(resume: Literal["auto", "never"] | Path, *, folder: Path) -> Checkpoint | None:
    """Return the checkpoint to go on from, the same on every rank; None starts from nothing.

    Args:
        resume: `Run.resume`.
        folder: The run's output.

    Raises:
        CheckpointError: None of the files loads, or going on from the one asked for would mix two
            runs in the folder.
    """
    choice: tuple[Path | None, str] = (None, "")
    if distributed.rank() == 0:
        try:
            choice = (_choose(resume, folder=folder), "")
        except CheckpointError as error:
            choice = (None, str(error))
    path, problem = distributed.broadcast_object(choice)
    if problem:
        raise CheckpointError(problem)
    return Checkpoint.read(path) if path else None


def _choose(resume: Literal["auto", "never"] | Path, *, folder: Path) -> Path | None:
    found = checkpoints(folder)
    if resume == "auto":
        for path in found:
            try:
                Checkpoint.read(path)
            except CheckpointError as error:
                logger.warning("Skipped a checkpoint: %s", error)
            else:
                return path
        if found:
            raise CheckpointError(
                f"None of the {len(found)} checkpoints in {folder} loads. Choose another --output, "
                "or remove them to start anew."
            )
        return None
    path, step = (None, -1) if resume == "never" else (resume, Checkpoint.read(resume).step)
    newer = [old for old in found if step_of(old) > step]
    if newer:
        raise CheckpointError(
            f"--resume {resume} would mix with {newer[0]}, which an earlier run went on to. "
            "Choose another --output, or remove the newer checkpoints."
        )
    return path


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the states of this rank's torch generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


@runtime_checkable
class Restorable(Protocol):
    """What goes back to a state that it once described."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:  # noqa: ANN401 - nobody looks at it
        """Take over the state."""
        ...


def restore(
    run: Run[M],
    *,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Restorable,
    device: torch.device,
) -> int:
    """Bring a freshly built run to where its checkpoint left it, and return the steps done.

    All ranks call this. Where there is nothing to go on from it only sets every rank's generators,
    so that from here on ranks draw differently.

    Raises:
        CheckpointError: See `load`; or the file is of another network, batch size or data set.
    """
    saved = load(run.resume, folder=run.output)
    step, rank = saved.step if saved else 0, distributed.rank()
    torch.manual_seed(run.seed + 1 + rank + distributed.world_size() * step)
    if saved is None:
        return 0
    _compare(saved.run, run.to_dict())
    groups = optimizer.state_dict()["param_groups"]  # these follow the run, not the file
    try:
        module.load_state_dict(saved.model)
        optimizer.load_state_dict({"state": saved.optimizer["state"], "param_groups": groups})
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint of step {step} does not fit this run's network: {error} "
            "Use the settings that it was trained with, or choose another --output."
        ) from error
    loader.load_state_dict(saved.loader)
    if len(saved.rng) == distributed.world_size():
        torch.set_rng_state(saved.rng[rank]["cpu"])
        if device.type == "cuda" and "cuda" in saved.rng[rank]:
            torch.cuda.set_rng_state(saved.rng[rank]["cuda"], device)
    logger.info("goes on from step %d", step)
    return step


def _compare(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a change that would lose the place, and warn of any that changes what comes out."""
    if then["batch_size"] != now["batch_size"]:
        raise CheckpointError(
            f"The checkpoint was trained with --batch-size {then['batch_size']}, this run has "
            f"{now['batch_size']}: the schedule counts steps of that size. Use it, or choose "
            "another --output."
        )
    before = dict(_flat(then))
    for name, value in sorted(_flat({k: v for k, v in now.items() if k not in MACHINE_FIELDS})):
        if name not in before or before[name] != value:
            logger.warning("The checkpoint had %s %s, from here on it is %s.", name,
                           before.get(name), value)  # fmt: skip


def _flat(values: dict[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every plain value by its path, as flags name it: `optimizer.lr`."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, prefix=f"{prefix}{name}.")
        else:
            yield prefix + name, value
