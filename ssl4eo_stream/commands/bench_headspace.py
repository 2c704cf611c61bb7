"""`ssl4eo-bench headspace`: how much faster a recipe would train if its data were for nothing."""

import importlib.util
import inspect
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from ssl4eo_stream import distributed
from ssl4eo_stream.augment.device import DeviceViews
from ssl4eo_stream.augment.native import NativeViews
from ssl4eo_stream.machine import environment
from ssl4eo_stream.stream.loader import StreamLoader
from ssl4eo_stream.stream.verdict import KEEPS_UP, verdict
from ssl4eo_stream.train.feed import Render, on_device
from ssl4eo_stream.train.run import Run
from ssl4eo_stream.train.trainer import Method, Trainer

ROUNDS = 5
"""Turns that the two sides take, so that a slow minute of the machine falls on both."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What is asked for beside the recipe's own flags."""

    steps: int = 50
    """Steps to time on either side, at least 5: so many that each takes half a minute or more."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the result, with machine and versions, to this file."""

    def __post_init__(self) -> None:
        if self.steps < ROUNDS:
            raise ValueError(f"--steps is {self.steps}; give {ROUNDS} or more.")


@dataclass(frozen=True, kw_only=True)
class Headspace:
    """Train a recipe on its stream and, in turns, on one batch that is already on the device.

    Takes the recipe's file and every flag of it (`python RECIPE --help`): the same network,
    optimizer and precision take the same steps, so that the difference is what data costs. Reports
    samples/s of both, their ratio, the share of time spent waiting, and what bounds the run. This
    process is one rank: --batch-size is what one rank gets. Nothing is saved, and nothing resumed:
    --output and --resume have no effect. Example:

        ssl4eo-bench headspace recipes/moco_rn50.py --data s3://bucket/ssl4eo/s2c --steps 50 \
--batch-size 64 --workers 8
    """

    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE.py")]
    """A recipe: a Python file with RUN and build, such as recipes/moco_rn50.py."""
    timing: Annotated[Timing, tyro.conf.arg(name="")]
    """How long."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command line, read."""

    headspace: Headspace
    """What to measure."""
    run: Run[Any]
    """The recipe's run with its flags, output in a scratch folder that the caller removes."""
    build: Callable[[Run[Any], int], Method]
    """The recipe's own."""


def load_recipe(path: Path) -> tuple[Run[Any], Callable[[Run[Any], int], Method]]:
    """Return a recipe's RUN and build.

    Raises:
        ValueError: The file is not there, or not a recipe.
    """
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"{path} is no recipe: there is no such Python file. Check the path.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look classes up there
    spec.loader.exec_module(module)
    if not hasattr(module, "RUN") or not hasattr(module, "build"):
        raise ValueError(f"{path} is no recipe: it has no RUN and build. See recipes/moco_rn50.py.")
    return module.RUN, module.build


def read_arguments(arguments: Sequence[str], *, output: Path) -> Job:
    """Return what a command line asks for; exits on a wrong flag.

    Args:
        arguments: What stands behind `ssl4eo-bench headspace`.
        output: Takes the place of the recipe's --output.

    Raises:
        ValueError: The recipe cannot be loaded.
    """
    paths = [each for each in arguments if each.endswith(".py")]
    if not paths:  # help, or a message that names what is missing
        tyro.cli(Headspace, prog="ssl4eo-bench headspace", args=arguments)
        raise ValueError("RECIPE.py must be a Python file, for example recipes/moco_rn50.py.")
    recipe = Path(paths[0])
    default, build = load_recipe(recipe)
    kind = Run[type(default.method)]

    def both(
        *,
        timing: Annotated[Timing, tyro.conf.arg(name="")],
        run: Annotated[kind, tyro.conf.arg(name="")] = default,  # type: ignore[valid-type]
    ) -> Job:
        headspace = Headspace(recipe=recipe, timing=timing)
        return Job(headspace=headspace, run=replace(run, output=output, resume="auto"), build=build)

    return tyro.cli(
        both,
        prog=f"ssl4eo-bench headspace {recipe}",
        args=["--output", str(output), *(each for each in arguments if each != paths[0])],
        description=inspect.getdoc(Headspace),
    )


def measure(job: Job) -> dict[str, Any]:
    """Train in turns on the stream and on one batch of it.

    Raises:
        StorageError: The shards cannot be read.
        ShardError: They are not a finished data set, or damaged.
        ValueError: A flag does not fit the data or the method.
    """
    run, per_round = job.run, math.ceil(job.headspace.timing.steps / ROUNDS)
    logging.getLogger("ssl4eo_stream").setLevel(logging.WARNING)
    with (
        distributed.process_group(run.device) as device,
        StreamLoader(  # all this is as in train()
            run.data,
            views=partial(NativeViews.over, run.views) if run.render == "device" else run.views,
            batch_size=run.batch_per_rank(distributed.world_size()), seed=run.seed,
            workers=run.workers, select=run.select, reading=run.reading,
            pin_memory=device.type == "cuda",
        ) as loader,
    ):  # fmt: skip
        native = loader.views if isinstance(loader.views, NativeViews) else None
        render = DeviceViews(native).to(device) if native else None
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        ahead = 2 * max(1, run.workers) + 2  # batches that wait while the stream has its break
        all_steps = ROUNDS * 2 * (per_round + ahead)
        run = replace(run, epochs=max(run.epochs, math.ceil(all_steps / len(loader)) + 1))
        sides = Sides(Trainer(run, job.build, loader=loader, device=device), render=render,
                      ahead=ahead)  # fmt: skip
        rounds = [sides.turn(per_round) for _ in range(ROUNDS)]
        sides.close()
        samples = per_round * run.batch_size
        # `numbers` of the round whose stream was of median speed: one that really happened.
        numbers = sorted(rounds, key=lambda each: each.streamed_seconds)[ROUNDS // 2].stats
        ratio = median(each.free_seconds / each.streamed_seconds for each in rounds)
        wait_share = median(each.stats["wait_share"] for each in rounds)
        found = verdict({**numbers, "wait_share": wait_share})
        assert found is not None, "every round takes batches"
        advice = found.advice
        if wait_share <= KEEPS_UP and ratio < 1 - KEEPS_UP:
            advice = (
                "The trainer hardly waits and is slower all the same: it shares its cores with "
                "the readers. Give fewer workers, or more cores."
            )
        return {
            "recipe": job.headspace.recipe.name,
            "url": loader.url,
            "device": str(device),
            "batch_size": run.batch_size,
            "workers": run.workers,
            "steps": per_round * ROUNDS,
            "samples_per_second_streamed": round(
                samples / median(each.streamed_seconds for each in rounds), 2
            ),
            "samples_per_second_free": round(
                samples / median(each.free_seconds for each in rounds), 2
            ),
            "ratio": round(ratio, 4),
            "ratios": [round(each.free_seconds / each.streamed_seconds, 4) for each in rounds],
            "wait_share": round(wait_share, 4),
            "step_milliseconds_free": round(
                1000 * median(each.free_seconds for each in rounds) / per_round, 2
            ),
            "verdict": found.bound,
            "advice": advice,
            **environment(),
        }


@dataclass(frozen=True, kw_only=True)
class Round:
    """One turn of both sides, the same number of steps each."""

    streamed_seconds: float
    """On the stream."""
    free_seconds: float
    """On a batch that is already there."""
    stats: Mapping[str, float]
    """The loader's, while the stream was trained on."""


class Sides:
    """Trains on a stream, or on one batch of it that stays on the device.

    Args:
        trainer: Takes the steps.
        render: Makes the views where workers only decode; free steps get them made.
        ahead: Batches that the workers have made by the end of a break: neither these nor as many
            steps after the stream's turn, in which the workers still fill up, are timed.
    """

    def __init__(self, trainer: Trainer[Any], *, render: Render | None, ahead: int) -> None:
        self._trainer, self._render, self._ahead = trainer, render, ahead
        self._stream = self._for_ever()
        views, _ = next(self._stream)
        self._kept = [view.clone() for view in views]
        self._free(1)

    def turn(self, steps: int) -> Round:
        """Take the steps on both sides."""
        self._streamed(self._ahead)
        self._trainer.loader.stats()
        streamed = self._timed(self._streamed, steps)
        stats = self._trainer.loader.stats()
        self._free(self._ahead)
        return Round(
            streamed_seconds=streamed, free_seconds=self._timed(self._free, steps), stats=stats
        )

    def close(self) -> None:
        """Leave the stream."""
        self._stream.close()

    def _for_ever(self) -> Generator[tuple[Sequence[Tensor], list[str]]]:
        while True:
            yield from on_device(
                self._trainer.loader, device=self._trainer.device, render=self._render
            )

    def _streamed(self, steps: int) -> None:
        for _ in range(steps):
            views, keys = next(self._stream)
            self._trainer.advance(views, keys=keys)

    def _free(self, steps: int) -> None:
        for _ in range(steps):
            self._trainer.advance(self._kept)

    def _timed(self, side: Callable[[int], None], steps: int) -> float:
        self._finish()
        start = time.perf_counter()
        side(steps)
        self._finish()
        return time.perf_counter() - start

    def _finish(self) -> None:
        """Wait for what the device has yet to do."""
        if self._trainer.device.type == "cuda":
            torch.cuda.synchronize(self._trainer.device)


def headspace(arguments: Sequence[str]) -> tuple[dict[str, Any], Path | None]:
    """Read a command line, measure, and return the result and the file it is to be written to."""
    with tempfile.TemporaryDirectory(prefix="ssl4eo-headspace") as scratch:
        job = read_arguments(arguments, output=Path(scratch))
        return measure(job), job.headspace.timing.json


def summary(result: Mapping[str, Any]) -> str:
    """Return the result as a line of numbers and one of advice."""
    return (
        f"{result['samples_per_second_streamed']:.1f} samples/s on the stream, "
        f"{result['samples_per_second_free']:.1f} with data for nothing: "
        f"{100 * result['ratio']:.1f} % (median of {ROUNDS} rounds), waiting "
        f"{100 * result['wait_share']:.1f} % of the time on {result['device']}"
        f"\n{result['verdict']}. {result['advice']}"
    )
