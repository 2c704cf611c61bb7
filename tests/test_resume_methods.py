"""Every method goes on from any step as if it had not stopped: masks, drop paths, centres too."""

from dataclasses import replace

import pytest
from oracles.moco import TinyConvNet
from tiny_run import (
    CHANNELS,
    CPU,
    SIZE,
    MemoryLoader,
    assert_same_state,
    newest,
    recorded,
    tiny_run,
)

from ssl4eo_stream.backbones import TransformerSize, beit, vision_transformer
from ssl4eo_stream.methods.data2vec import Data2Vec, Data2VecConfig
from ssl4eo_stream.methods.dino import DINO, DINOConfig
from ssl4eo_stream.methods.mae import MAE, MAEConfig
from ssl4eo_stream.methods.moco_v3 import MoCoV3, MoCoV3Config
from ssl4eo_stream.train.loop import fit
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.signals import StopSignals

SIZES = TransformerSize(patch=2, dim=24, depth=2, heads=2)
OPTIONS = {"in_channels": CHANNELS, "image_pixels": SIZE}
VIEWS = {"moco_v3": 2, "dino_vit": 2, "dino_conv": 2, "mae": 1, "data2vec": 1}


def build(run, channels):
    """Return a method whose every chance is taken: paths dropped, patches masked."""
    match run.name:
        case "moco_v3":
            return MoCoV3(vision_transformer(SIZES, **OPTIONS), MoCoV3Config(dim=8, hidden=16))
        case "dino_vit":
            vit = vision_transformer(SIZES, **OPTIONS, drop_path=0.5)
            config = DINOConfig(prototypes=16, hidden=16, bottleneck=8, teacher_warmup_epochs=2)
            return DINO(vit, config)
        case "dino_conv":
            config = DINOConfig(prototypes=16, hidden=16, bottleneck=8, drop_path=0.0)
            return DINO(TinyConvNet(channels), config)
        case "mae":
            config = MAEConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2)
            return MAE(vision_transformer(SIZES, **OPTIONS), config, in_channels=channels)
        case _:
            config = Data2VecConfig(masked=9, smallest_block=2, largest_block=9, target_layers=2,
                                    momentum_rises_epochs=1)  # fmt: skip
            network = beit(SIZES, **OPTIONS, layer_scale=0.1, drop_path=0.5, attention_dropout=0.5)
            return Data2Vec(network, config)


class SomeViews(MemoryLoader):
    def __init__(self, *, batch_size, views):
        super().__init__(batch_size=batch_size)
        self.views = views

    def __iter__(self):
        for batch in super().__iter__():
            yield replace(batch, views=batch.views[: self.views])


def go(run):
    loader = SomeViews(batch_size=run.batch_size, views=VIEWS[run.name])
    with StopSignals() as stop:
        return fit(run, build, loader=loader, device=CPU, stop=stop)


@pytest.mark.parametrize("name", VIEWS)
def test_stopping_after_every_step_equals_not_stopping(name, tmp_path):
    optimizer = Optimizer(name="adamw", lr=1e-2, clip=1.0, weight_decay_end=0.4)
    run = tiny_run(tmp_path / "whole", name=name, optimizer=optimizer)
    assert go(run) == 6
    for step in range(1, 7):
        assert go(replace(run, output=tmp_path / "often", max_steps=step)) == step
    assert_same_state(newest(tmp_path / "often"), newest(tmp_path / "whole"))
    ours, theirs = recorded(tmp_path / "often"), recorded(tmp_path / "whole")
    assert [row["loss"] for row in ours] == [row["loss"] for row in theirs]
