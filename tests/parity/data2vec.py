"""data2vec against its published code's numbers."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity.arrays import (
    TOLERANCE,
    assert_all_close,
    assert_close,
    assert_state,
    dtypes,
    load,
    part,
    read,
    tensor,
)

from ssl4eo_stream.backbones import TransformerSize, beit
from ssl4eo_stream.methods.block_masks import block_mask
from ssl4eo_stream.methods.data2vec import Data2Vec, Data2VecConfig, mean_of_layers, rising
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.schedule import Schedule


def ours(name):
    who, name = name.split("/")
    own = name.startswith(("mask_token", "lm_head"))
    return f"{who}.{name}" if own else f"{who}.backbone.{name}"


class Replayed(Data2Vec):
    """data2vec with the files' masks, that remembers its first targets."""

    first = None

    def masks(self, count):
        masks = next(self.replayed).astype(bool)
        assert len(masks) == count
        return masks

    def targets(self, images, rows):
        targets = super().targets(images, rows)
        self.first = targets if self.first is None else self.first
        return targets


@dtypes
def test_data2vec_whole_steps(dtype):
    arrays, config = read("data2vec_step.npz")
    size = TransformerSize(patch=config["patch"], dim=config["dim"], depth=config["depth"],
                           heads=config["heads"])  # fmt: skip
    assert config["layers"] == list(range(config["depth"]))[-len(config["layers"]) :]
    assert config["ema_start"] == 0
    settings = Data2VecConfig(
        masked=config["num_mask"], target_layers=len(config["layers"]), beta=config["beta"],
        momentum=config["d1"], layer_scale=config["ls"], drop_path=0.0, attention_dropout=0.0,
    )  # fmt: skip
    backbone = beit(size, in_channels=13, image_pixels=config["img"], layer_scale=config["ls"])
    model = Replayed(backbone, settings).train()
    init = part(arrays, "init/")
    init.pop("rel_pos_bias.relative_position_index")
    state = {ours(f"{who}/{name}"): a for who in ("student", "teacher") for name, a in init.items()}
    assert load(model, state, dtype=dtype) == []
    model.replayed = iter(arrays["in/mask"])
    adam = Optimizer(name="adamw", lr=config["lr"], weight_decay=config["wd"], decayed="matrices",
                     undecayed=("cls_token",), clip=config["clip"])  # fmt: skip
    optimizer = adam.over(model)
    names = {id(p): name for name, p in model.named_parameters()}
    for group, label in zip(optimizer.param_groups, ("decayed", "not_decayed"), strict=True):
        wants = {ours(f"student/{name}") for name in arrays[f"groups/{label}"]}
        assert {names[id(p)] for p in group["params"]} == wants
    schedule = Schedule(every="step", warmup_epochs=config["warm"], warmup_reaches_base=True,
                        floor=config["min_lr"])  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    predicted = []
    model.student.register_forward_hook(lambda _, __, output: predicted.append(output.detach()))
    got = {"loss": [], "lr": [], "grad_norm": []}
    for i, images in enumerate(arrays["in/img_u8"]):
        step = int(arrays["in/start_step"]) + i
        rate = schedule.rate(adam.lr, step=step, steps_per_epoch=config["iters"],
                             epochs=config["epochs"])  # fmt: skip
        adam.set(optimizer, rate=rate, share=0.0)
        model.before_step(epoch=step / config["iters"], epochs=config["epochs"])
        loss = model([torch.from_numpy(images)])
        optimizer.zero_grad()
        loss.backward()
        norm = adam.clip_gradients(trained)
        optimizer.step()
        model.after_step()
        for name, value in (("loss", loss.item()), ("lr", rate), ("grad_norm", norm.item())):
            got[name].append(value)
    tolerance = TOLERANCE[dtype][1]
    for name, values in got.items():
        assert_close(np.array(values), arrays[f"out/{name}"], tolerance=tolerance, name=name)
    for name, value in (("student_out_step0", predicted[0]), ("target_step0", model.first)):
        assert_close(value, arrays[f"out/{name}"], tolerance=tolerance, name=name)
    assert_state(model, part(arrays, "final/"), name_of=ours, tolerance=tolerance)


@dtypes
@pytest.mark.parametrize("case", [0, 1])
def test_data2vec_targets_and_loss(dtype, case):
    arrays, _ = read("data2vec_fn.npz")
    given, wants = part(arrays, f"tgt{case}/in/"), part(arrays, f"tgt{case}/out/")
    masked = torch.from_numpy(given["mask"].astype(bool)).flatten()
    layers = [tensor(given["layer_outputs"][i], dtype).flatten(0, 1)[masked]
              for i in given["target_layers"]]  # fmt: skip
    targets = mean_of_layers(layers, normalize=bool(given["post_ln"]))
    pred = tensor(given["pred"], dtype).requires_grad_()
    loss = F.smooth_l1_loss(pred, targets, beta=float(given["beta"]))
    loss.backward()
    got = {"targets": targets, "loss": loss, "grad_pred": pred.grad}
    assert_all_close(got, wants, tolerance=TOLERANCE[dtype][0])


def test_data2vec_momentum_rises():
    arrays, _ = read("data2vec_fn.npz")
    until, first, last = arrays["ema/in/start_at__decay_init__decay"].tolist()
    want = arrays["ema/out/decay_by_step"]
    got = np.array([rising(float(step), first, last, until=until) for step in range(len(want))])
    assert_close(got, want, tolerance=(1e-7, 0), name="decay_by_step")


def test_data2vec_block_masks():
    arrays, _ = read("data2vec_fn.npz")
    count, smallest, largest = (int(n) for n in arrays["blockmask/in/num__min__max"])
    wants = part(arrays, "blockmask/out/")

    def mask(rng):
        return block_mask(rng, grid=14, count=count, smallest=smallest, largest=largest)

    seeds = arrays["blockmask/in/python_random_seed"]
    exact = np.stack([mask(random.Random(int(seed))) for seed in seeds])
    np.testing.assert_array_equal(exact, wants["exact"].astype(bool))
    rng, draws = random.Random(1), int(wants["n_draws"])
    own = np.stack([mask(rng) for _ in range(draws)])
    counts = np.bincount(own.sum((1, 2)), minlength=197)
    means = [(c * np.arange(197)).sum() / c.sum() for c in (counts, wants["count_histogram"])]
    assert means[0] == pytest.approx(means[1], abs=0.2)
    np.testing.assert_allclose(own.mean(0), wants["position_frequency"], atol=0.05)
    same = (own[:, :, 1:] == own[:, :, :-1]).mean()
    assert same == pytest.approx(float(wants["same_neighbour_fraction"]), abs=0.01)


@dtypes
@pytest.mark.parametrize("window", [4, 14])
def test_data2vec_relative_bias(dtype, window):
    arrays, _ = read("data2vec_fn.npz")
    wants = part(arrays, f"rel{window}/out/")
    heads = 3
    size = TransformerSize(patch=4, dim=heads * 4, depth=1, heads=heads)
    vit = beit(size, in_channels=1, image_pixels=4 * window, layer_scale=0.1).to(dtype)
    got = {"index": vit.rel_pos_bias.relative_position_index}
    if f"rel{window}/in/table" in arrays:
        table = tensor(arrays[f"rel{window}/in/table"], dtype)
        vit.rel_pos_bias.relative_position_bias_table.data.copy_(table)
        got["bias"] = vit.rel_pos_bias().squeeze(0)
    assert_all_close(got, wants, tolerance=TOLERANCE[dtype][0])
