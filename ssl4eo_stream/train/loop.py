"""The training loop: the same for every method, one process or many, a laptop or a cluster.

`python recipes/X.py …` trains in one process, `torchrun --nproc-per-node N recipes/X.py …` in N.
SIGTERM, SIGUSR1 and Ctrl-C finish the step, save, and exit with 0. The same command goes on from
there, and exits at once when nothing is left to do, so a job may always queue itself again.
torchrun itself exits with 1 when it gets a signal, after the ranks have saved; it needs
`--signals-to-handle SIGTERM,SIGINT,SIGUSR1` to pass SIGUSR1 on.
"""

import logging
import signal
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from ssl4eo_stream import distributed
from ssl4eo_stream.augment.device import DeviceViews
from ssl4eo_stream.augment.native import NativeViews
from ssl4eo_stream.stream.loader import StreamLoader
from ssl4eo_stream.train.feed import Loader, Render, on_device
from ssl4eo_stream.train.run import Run
from ssl4eo_stream.train.signals import StopSignals
from ssl4eo_stream.train.trainer import Method, Trainer
from ssl4eo_stream.train.watch import Watch

logger = logging.getLogger(__name__)

M = TypeVar("M")


def train(run: Run[M], build: Callable[[Run[M], int], Method]) -> None:
    """Train a run, or go on with it, until it is done or a signal stops it.

    Args:
        run: What to do.
        build: Assembles the method for images of so many channels; a function of the recipe.

    Raises:
        CheckpointError: There is nothing that could be gone on from, or it is of another run.
        FloatingPointError: The loss or the weights are no longer finite.
        ValueError: The batch does not divide by the ranks, or does not fit the method.
    """
    with StopSignals() as stop, distributed.process_group(run.device) as device:
        level = logging.INFO if distributed.rank() == 0 else logging.WARNING
        logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        on_gpu = run.render == "device"
        with StreamLoader(
            run.data,
            views=partial(NativeViews.over, run.views) if on_gpu else run.views,
            batch_size=run.batch_per_rank(distributed.world_size()),
            seed=run.seed,
            workers=run.workers,
            select=run.select,
            reading=run.reading,
            pin_memory=device.type == "cuda",
        ) as loader:
            native = loader.views if isinstance(loader.views, NativeViews) else None
            render = DeviceViews(native).to(device) if native else None
            watch = Watch(run, bands=loader.bands)
            fit(run, build, loader=loader, device=device, stop=stop, render=render, watch=watch)


def fit(
    run: Run[M],
    build: Callable[[Run[M], int], Method],
    *,
    loader: Loader,
    device: torch.device,
    stop: StopSignals,
    render: Render | None = None,
    watch: Watch | None = None,
) -> int:
    """Do what `train` does with a given loader, and return the number of steps done."""
    trainer = Trainer(run, build, loader=loader, device=device)
    with trainer.recording():
        if watch:
            watch.before(trainer)
        while trainer.step < trainer.last_step:
            for views, keys in on_device(loader, device=device, render=render):
                trainer.advance(views, keys=keys)
                if watch and watch.due(trainer):
                    trainer.record(also=partial(watch.look, trainer, views))
                elif trainer.step % run.log_every == 0 or trainer.step == trainer.last_step:
                    trainer.record()
                signum, due = distributed.maximum([stop.received, int(trainer.checkpoint_due())])
                if signum or due:
                    trainer.save()
                if signum:
                    name = signal.Signals(signum).name
                    logger.info("%s: saved step %d and stopped. The same command goes on from "
                                "there.", name, trainer.step)  # fmt: skip
                    return trainer.step
                if trainer.step == trainer.last_step:
                    break
    logger.info("Nothing left to do at step %d.", trainer.step)
    return trainer.step
