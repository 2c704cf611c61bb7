"""What all methods have in common, and what their slow formulas say."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.moco import TinyConvNet

from ssl4eo_stream.backbones import (
    TransformerSize,
    beit,
    resnet,
    transformer_size,
    vision_transformer,
)
from ssl4eo_stream.methods.block_masks import block_mask
from ssl4eo_stream.methods.collapse import entropy, spread
from ssl4eo_stream.methods.data2vec import Data2Vec, Data2VecConfig
from ssl4eo_stream.methods.dino import DINO, DINOConfig
from ssl4eo_stream.methods.mae import MAE, MAEConfig
from ssl4eo_stream.methods.moco_v3 import MoCoV3, MoCoV3Config
from ssl4eo_stream.train.trainer import Method

SIZE = TransformerSize(patch=8, dim=24, depth=2, heads=2)
METHODS = ["moco_v3", "dino_vit", "dino_conv", "mae", "data2vec"]


def make(name, channels=3):
    torch.manual_seed(0)
    options = {"in_channels": channels, "image_pixels": 32}
    match name:
        case "moco_v3":
            return MoCoV3(vision_transformer(SIZE, **options), MoCoV3Config(dim=8, hidden=16))
        case "dino_vit":
            vit = vision_transformer(SIZE, **options, drop_path=0.5)
            return DINO(vit, DINOConfig(prototypes=16, hidden=16, bottleneck=8))
        case "dino_conv":
            network = TinyConvNet(channels)
            return DINO(network, DINOConfig(prototypes=16, hidden=16, bottleneck=8, drop_path=0.0))
        case "mae":
            config = MAEConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2)
            return MAE(vision_transformer(SIZE, **options), config, in_channels=channels)
        case _:
            config = Data2VecConfig(masked=9, smallest_block=2, largest_block=9, target_layers=2)
            return Data2Vec(beit(SIZE, **options, layer_scale=0.1), config)


def views_of(name, *, batch=4, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sides = {"moco_v3": [32] * 2, "dino_vit": [32, 32, 16, 16], "dino_conv": [32, 32, 16]}
    return [
        torch.randint(0, 256, (batch, channels, side, side), dtype=torch.uint8, generator=generator)
        for side in sides.get(name, [32])
    ]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("channels", [2, 3, 12, 13, 15])
def test_any_number_of_bands_trains(name, channels):
    method = make(name, channels)
    assert isinstance(method, Method)
    method.train()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        method.before_step(epoch=float(step), epochs=2)
        loss = method(views_of(name, channels=channels, seed=step))
        optimizer.zero_grad()
        loss.backward()
        method.before_update()
        optimizer.step()
        method.after_step()
        assert loss.isfinite()
        assert method.metrics["spread"] > 0
    features = method.backbone(torch.rand(2, channels, 32, 32))
    assert features.shape[0] == 2


@pytest.mark.parametrize("name", METHODS)
def test_what_is_to_be_compiled_is_there_and_called(name):
    method, called = make(name), []
    for path in method.compiled:
        owner, _, function = path.rpartition(".")
        owner = method.get_submodule(owner)
        inner = getattr(owner, function)

        def counted(*args, path=path, inner=inner):
            called.append(path)
            return inner(*args)

        setattr(owner, function, counted)
    method(views_of(name))
    assert set(called) == set(method.compiled)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_all_that_is_trained_and_nothing_else(name):
    method = make(name).train()
    method.before_step(epoch=5.0, epochs=10)
    method(views_of(name)).backward()
    for parameter_name, parameter in method.named_parameters():
        reached = parameter.grad is not None
        assert reached == parameter.requires_grad, parameter_name


@pytest.mark.parametrize("name", ["moco_v3", "dino_vit", "dino_conv", "data2vec"])
def test_teachers_never_drop_and_are_never_trained(name):
    method = make(name).train()
    teacher = method.momentum_encoder if name == "moco_v3" else method.teacher
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(m.drop_prob == 0 for m in teacher.modules() if hasattr(m, "drop_prob"))


def test_prototypes_stay_in_the_first_epoch():
    method = make("dino_conv").train()
    for epoch, stays in ((0.0, True), (0.9, True), (1.0, False)):
        method.zero_grad()
        method.before_step(epoch=epoch, epochs=4)
        method(views_of("dino_conv")).backward()
        method.before_update()
        assert (method.student.head.last_layer.weight_v.grad is None) == stays


@settings(max_examples=20, deadline=None)
@given(crops=st.integers(2, 5), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_dinos_loss_is_the_slow_formula(crops, batch, seed):
    rng = np.random.default_rng(seed)
    method = make("dino_conv").double()
    center = rng.normal(size=(1, 16))
    method.center.copy_(torch.from_numpy(center))
    student, teacher = rng.normal(size=(crops, batch, 16)), rng.normal(size=(2, batch, 16))
    got, _ = method.loss(torch.from_numpy(student).flatten(0, 1),
                         torch.from_numpy(teacher).flatten(0, 1))  # fmt: skip

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    losses = [
        -(softmax((teacher[i] - center) / 0.04) * np.log(softmax(student[v] / 0.1))).sum(-1).mean()
        for i in range(2) for v in range(crops) if v != i
    ]  # fmt: skip
    assert got.item() == pytest.approx(np.mean(losses), rel=1e-8)


def test_a_resnet_has_no_paths_to_drop():
    with pytest.raises(ValueError, match=r"--method\.drop-path 0\.1 is for vision transformers"):
        DINO(TinyConvNet(3), DINOConfig(prototypes=4, hidden=4, bottleneck=4))


def test_backbones_that_do_not_fit_say_which_do():
    with pytest.raises(ValueError, match="takes resnet18, resnet50"):
        resnet("vit_small_patch16", in_channels=3)
    with pytest.raises(ValueError, match="takes vit_tiny_patch16"):
        transformer_size("resnet50", image_pixels=224)
    with pytest.raises(ValueError, match=r"--views\.size 208"):
        transformer_size("vit_small_patch16", image_pixels=210)


@pytest.mark.parametrize(
    ("name", "million"), [("vit_tiny_patch16", 5.5), ("vit_small_patch16", 21.7),
                          ("vit_base_patch16", 85.8)],
)  # fmt: skip
def test_transformers_have_their_published_sizes(name, million):
    vit = vision_transformer(
        transformer_size(name, image_pixels=224), in_channels=3, image_pixels=224
    )
    assert sum(p.numel() for p in vit.parameters()) / 1e6 == pytest.approx(million, abs=0.1)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32), grid=st.integers(4, 14), part=st.floats(0.1, 0.9),
    smallest=st.integers(1, 16),
)  # fmt: skip
def test_masks_are_never_too_large(seed, grid, part, smallest):
    count = max(1, int(part * grid * grid))
    mask = block_mask(random.Random(seed), grid=grid, count=count, smallest=smallest,
                      largest=grid * grid)  # fmt: skip
    assert mask.shape == (grid, grid)
    assert 0 <= mask.sum() <= count


def test_collapse_shows():
    torch.manual_seed(0)
    assert spread(torch.randn(2000, 64)).item() == pytest.approx(1.0, abs=0.02)
    assert spread(torch.ones(8, 64)).item() == pytest.approx(0.0, abs=1e-4)
    assert entropy(torch.full((3, 16), 1 / 16)).item() == pytest.approx(np.log(16))
    assert entropy(torch.eye(4)).item() == 0.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: DINOConfig(prototypes=0), "--method.prototypes is 0"),
        (lambda: DINOConfig(center_momentum=1.5), "--method.center-momentum is 1.5"),
        (lambda: DINOConfig(teacher_temperature=0.0), "--method.teacher-temperature is 0.0"),
        (lambda: MAEConfig(mask=1.0), "--method.mask is 1.0"),
        (lambda: MAEConfig(decoder_dim=30), "--method.decoder-dim 30 must be a multiple"),
        (lambda: MoCoV3Config(hidden=0), "--method.hidden is 0"),
        (lambda: MoCoV3Config(temperature=0.0), "--method.temperature is 0.0"),
        (lambda: Data2VecConfig(beta=0.0), "--method.beta is 0.0"),
        (lambda: Data2VecConfig(largest_block=1), "--method.largest-block 1 is below"),
    ],
)
def test_nonsense_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        config()


def test_more_targets_than_blocks_are_refused():
    vit = beit(SIZE, in_channels=3, image_pixels=32, layer_scale=0.1)
    with pytest.raises(ValueError, match="must not exceed the network's 2 blocks"):
        Data2Vec(vit, Data2VecConfig(masked=9))
