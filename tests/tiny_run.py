"""A run that takes a tenth of a second: tiny images from memory, a tiny network, the real loop."""

import json
from dataclasses import dataclass, replace

import torch
from oracles.moco import TinyConvNet

from ssl4eo_stream import distributed
from ssl4eo_stream.methods.moco import MoCo, MoCoConfig
from ssl4eo_stream.stream.loader import Batch
from ssl4eo_stream.train.checkpoint import Checkpoint, checkpoints
from ssl4eo_stream.train.loop import fit
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run
from ssl4eo_stream.train.schedule import Schedule
from ssl4eo_stream.train.signals import StopSignals

CHANNELS, SIZE, STEPS_PER_EPOCH = 3, 8, 3
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class NoViews:
    num_views: int = 2


class MemoryLoader:
    """Batches made from (epoch, step), with the behaviour of `StreamLoader`."""

    channels = CHANNELS

    def __init__(self, *, batch_size, at_step=None):
        self.batch_size, self.epoch, self.step = batch_size, 0, 0
        self.at_step = at_step

    def __len__(self):
        return STEPS_PER_EPOCH

    def __iter__(self):
        while self.step < STEPS_PER_EPOCH:
            done = self.epoch * STEPS_PER_EPOCH + self.step
            if self.at_step:
                self.at_step(done)
            generator = torch.Generator().manual_seed(done)
            shape = (2, self.batch_size, CHANNELS, SIZE, SIZE)
            images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
            own = images.chunk(distributed.world_size(), dim=1)[distributed.rank()]
            self.step += 1
            yield Batch(
                views=tuple(own),
                keys=[f"{i:07d}" for i in range(own.shape[1])],
                dates=torch.zeros(own.shape[1], 2, dtype=torch.int64),
            )
        self.epoch, self.step = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state):
        self.epoch, self.step = state["epoch"], state["step"]

    def stats(self):
        return {"wait_share": 0.25}


def tiny_run(output, **changes):
    run = Run(
        name="tiny",
        data=("nowhere",),
        output=output,
        views=NoViews(),
        method=MoCoConfig(dim=8, queue=32, momentum=0.9, batch_norm_groups=2),
        optimizer=Optimizer(lr=0.1),
        schedule=Schedule(every="epoch"),
        batch_size=8,
        epochs=2,
        log_every=1,
        checkpoint_minutes=1000.0,
        device="cpu",
    )
    return replace(run, **changes)


class DrawingMoCo(MoCo):
    """Also draws from torch's own generator, as masks and drop-path do."""

    def forward(self, views):
        return super().forward(views) + 0 * torch.rand(()) + self.draw()

    def draw(self):
        return torch.rand(()) * self.encoder_q.head[0].bias.sum()


def build(run, channels):
    return DrawingMoCo(TinyConvNet(channels), run.method)


def go(run, *, build=build, at_step=None, device=CPU):
    loader = MemoryLoader(batch_size=run.batch_size, at_step=at_step)
    with StopSignals() as stop:
        return fit(run, build, loader=loader, device=device, stop=stop)


def newest(folder):
    return Checkpoint.read(checkpoints(folder)[0])


def recorded(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_state(a, b):
    assert a.step == b.step
    assert a.loader == b.loader
    assert a.model.keys() == b.model.keys()
    for name, value in a.model.items():
        assert torch.equal(value, b.model[name]), name
    assert a.optimizer["state"].keys() == b.optimizer["state"].keys()
    for number, state in a.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(value, b.optimizer["state"][number][name]), (number, name)
    assert len(a.rng) == len(b.rng)
    for ours, theirs in zip(a.rng, b.rng, strict=True):
        assert torch.equal(ours["cpu"], theirs["cpu"])
