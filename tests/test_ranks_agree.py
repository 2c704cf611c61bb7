"""Two ranks of half the batch train as one process of the whole, also in parts."""

from pathlib import Path

import numpy as np
import pytest
from oracles.moco import TinyConvNet
from ranks import run_ranks
from tiny_run import CHANNELS, CPU, SIZE, MemoryLoader, tiny_run

from ssl4eo_stream.backbones import TransformerSize, beit, vision_transformer
from ssl4eo_stream.methods.data2vec import Data2Vec, Data2VecConfig
from ssl4eo_stream.methods.dino import DINO, DINOConfig
from ssl4eo_stream.methods.mae import MAE, MAEConfig
from ssl4eo_stream.methods.moco_v3 import MoCoV3, MoCoV3Config
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.trainer import Trainer

SIZES = TransformerSize(patch=2, dim=24, depth=2, heads=2)
OPTIONS = {"in_channels": CHANNELS, "image_pixels": SIZE}
NOWHERE = Path("no-such-folder")
STEPS = 5
"""Three are an epoch."""


class SameMasksMAE(MAE):
    """Masks by what patches show, so that a sample's is the same on any rank."""

    def noise(self, patches):
        return (patches.mean(dim=2) * 1e4).frac()


class SameMasksData2Vec(Data2Vec):
    def masks(self, count):
        mask = np.zeros((self.grid, self.grid), bool)
        mask[1:3, 0:3] = True
        return np.stack([mask] * count)


def build(run, channels):
    """Return a method that draws nothing by chance, in float64."""
    vit = vision_transformer(SIZES, **OPTIONS)
    match run.name:
        case "moco_v3":
            method = MoCoV3(vit, MoCoV3Config(dim=8, hidden=16))
        case "dino_vit":
            method = DINO(vit, DINOConfig(prototypes=16, hidden=16, bottleneck=8, drop_path=0.0))
        case "dino_conv":
            config = DINOConfig(prototypes=16, hidden=16, bottleneck=8, drop_path=0.0)
            method = DINO(TinyConvNet(channels), config)
        case "mae":
            config = MAEConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2)
            method = SameMasksMAE(vit, config, in_channels=channels)
        case _:
            network = beit(SIZES, **OPTIONS, layer_scale=0.1)
            config = Data2VecConfig(masked=6, target_layers=2)
            method = SameMasksData2Vec(network, config)
    return method.double()


def trained(name, views, accumulate=1, steps=STEPS):
    """Return the losses and the weights after some steps."""
    optimizer = Optimizer(name="adamw", lr=1e-3, clip=1.0, clip_each=name.startswith("dino"))
    run = tiny_run(NOWHERE, name=name, optimizer=optimizer, accumulate=accumulate)
    loader = MemoryLoader(batch_size=run.batch_size)
    trainer = Trainer(run, build, loader=loader, device=CPU)
    losses = []
    while trainer.step < steps:
        for batch in loader:
            trainer.advance(batch.views[:views])
            losses.append(float(trainer._loss_sum))
            trainer._loss_sum.zero_()
            if trainer.step == steps:
                break
    return losses, {key: value.numpy() for key, value in trainer.module.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "views"),
    [("moco_v3", 2), ("dino_vit", 2), ("dino_conv", 2), ("mae", 1), ("data2vec", 1)],
)
def test_two_ranks_of_half_the_batch_are_one_of_the_whole(name, views):
    (first, ours), (second, theirs) = run_ranks(trained, 2, name, views)
    alone, expected = trained(name, views)
    assert (np.add(first, second) / 2).tolist() == pytest.approx(alone, rel=1e-6)
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-6, atol=1e-8, err_msg=key)
        np.testing.assert_allclose(theirs[key], value, rtol=1e-6, atol=1e-8, err_msg=key)


@pytest.mark.parametrize(("name", "views"), [("mae", 1), ("data2vec", 1)])
def test_two_ranks_in_two_parts_each_are_one_process(name, views):
    (_, ours), _ = run_ranks(trained, 2, name, views, 2)
    _, expected = trained(name, views)
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-6, atol=1e-8, err_msg=key)


@pytest.mark.parametrize(("steps", "moved"), [(3, False), (4, True)])
def test_prototypes_stay_on_all_ranks_for_an_epoch_and_move_then(steps, moved):
    name = "student.head.last_layer.weight_v"
    _, start = trained("dino_vit", 2, steps=0)
    for _, weights in run_ranks(trained, 2, "dino_vit", 2, 1, steps):
        assert np.array_equal(weights[name], start[name]) is not moved
