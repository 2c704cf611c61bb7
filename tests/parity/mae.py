"""MAE against its published code's numbers."""

import numpy as np
import pytest
import torch
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
from parity.vit import tiny_vit

from ssl4eo_stream.methods.mae import (
    MAE,
    MAEConfig,
    masked_error,
    patchify,
    random_mask,
    rows,
    unpatchify,
)
from ssl4eo_stream.methods.positions import sincos_table
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.schedule import Schedule


def ours(name):
    return name if name.startswith(("decoder", "mask_token")) else f"encoder.{name}"


class Replayed(MAE):
    """MAE with the files' noise, that remembers its first predictions."""

    first = None

    def noise(self, patches):
        return next(self.noises).to(patches.dtype)

    def decode(self, latent, restore):
        painted = super().decode(latent, restore)
        self.first = painted.detach() if self.first is None else self.first
        return painted


@dtypes
def test_mae_whole_steps(dtype):
    arrays, config = read("mae_step.npz")
    settings = MAEConfig(
        mask=config["ratio"], decoder_dim=config["ddim"], decoder_depth=config["ddepth"],
        decoder_heads=config["dheads"], normalize_pixels=config["norm_pix"],
    )  # fmt: skip
    model = Replayed(tiny_vit(config), settings, in_channels=13)
    missing = load(model, {ours(name): a for name, a in part(arrays, "init/").items()}, dtype=dtype)
    assert missing == []
    noise = arrays["in/noise"]
    model.noises = iter(torch.from_numpy(noise))
    adam = Optimizer(name="adamw", lr=config["lr"], betas=(0.9, 0.95), weight_decay=config["wd"],
                     decayed="matrices")  # fmt: skip
    optimizer = adam.over(model)
    names = {id(p): name for name, p in model.named_parameters()}
    for group, label in zip(optimizer.param_groups, ("decayed", "not_decayed"), strict=True):
        wants = {ours(str(name)) for name in arrays[f"groups/{label}"]}
        assert {names[id(p)] for p in group["params"]} == wants
    schedule = Schedule(every="step", warmup_epochs=config["warmup"], floor=config["min_lr"])
    losses, rates = [], []
    for i, images in enumerate(arrays["in/img_u8"]):
        step = config["start_epoch"] * config["iters"] + i
        rates.append(schedule.rate(adam.lr, step=step, steps_per_epoch=config["iters"],
                                   epochs=config["epochs"]))  # fmt: skip
        adam.set(optimizer, rate=rates[-1], share=0.0)
        loss = model([torch.from_numpy(images)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    tolerance = TOLERANCE[dtype][1]
    _, _, mask = random_mask(torch.from_numpy(noise[0]), share=config["ratio"])
    for name, got in (("loss", np.array(losses)), ("lr", np.array(rates)),
                      ("pred_step0", model.first), ("mask_step0", mask)):  # fmt: skip
        assert_close(got, arrays[f"out/{name}"], tolerance=tolerance, name=name)
    assert_state(model, part(arrays, "final/"), name_of=ours, tolerance=tolerance,
                 leave_out=("attn.qkv.bias",) if dtype == torch.float32 else ())  # fmt: skip


@dtypes
@pytest.mark.parametrize("case", ["c3", "c13"])
def test_mae_patches_and_loss(dtype, case):
    arrays, _ = read("mae_fn.npz")
    given, wants = part(arrays, f"{case}/in/"), part(arrays, f"{case}/out/")
    patch = int(given["patch"])
    patches = patchify(tensor(given["img_u8"], dtype) / 255, patch=patch)
    mask = tensor(given["mask"], dtype)
    got = {
        "patchify": patches,
        "unpatchify_pred": unpatchify(tensor(given["pred"], dtype), patch=patch),
    }
    for name, normalize in (("raw", False), ("norm", True)):
        pred = tensor(given["pred"], dtype).requires_grad_()
        loss = masked_error(pred, patches, mask, normalize=normalize)
        loss.backward()
        got |= {f"loss_{name}": loss, f"grad_pred_{name}": pred.grad}
    assert_all_close(got, wants, tolerance=TOLERANCE[dtype][0])


@pytest.mark.parametrize("case", [0, 1, 2])
def test_mae_mask(case):
    arrays, _ = read("mae_fn.npz")
    given, wants = part(arrays, f"mask{case}/in/"), part(arrays, f"mask{case}/out/")
    kept, restore, mask = random_mask(torch.from_numpy(given["noise"]), share=float(given["ratio"]))
    got = {
        "x_kept": rows(torch.from_numpy(given["x"]), kept), "mask": mask, "ids_restore": restore,
        "len_keep": np.array(kept.shape[1]),
    }  # fmt: skip
    assert_all_close(got, wants, tolerance=(0, 0))


def test_mae_positions():
    arrays, _ = read("mae_fn.npz")
    tables = part(arrays, "sincos/")
    assert tables
    for name, want in tables.items():
        dim, grid = (int(word[1:]) for word in name.split("_"))
        got = sincos_table(dim, grid=grid, first="column")[0]
        assert_close(got, want, tolerance=TOLERANCE[torch.float32][0], name=name)
