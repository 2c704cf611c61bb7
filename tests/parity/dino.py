"""DINO against its published code's numbers."""

import numpy as np
import pytest
import torch
from oracles.moco import TinyConvNet
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
from ranks import run_ranks
from torch import nn

from ssl4eo_stream import distributed
from ssl4eo_stream.methods.dino import (
    DINO,
    DINOConfig,
    resized_positions,
    teacher_temperature,
)
from ssl4eo_stream.methods.heads import DINOHead
from ssl4eo_stream.methods.teacher import momentum_at
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.schedule import Schedule


class NoHead(TinyConvNet):
    """The tiny network up to its features."""

    def __init__(self):
        super().__init__()
        if hasattr(self, "fc"):
            del self.fc


class Replayed(DINO):
    """DINO that remembers its first answers."""

    first = None

    def loss(self, scores, answers):
        self.first = (scores.detach(), answers.detach()) if self.first is None else self.first
        return super().loss(scores, answers)


@dtypes
@pytest.mark.parametrize("kind", ["vit", "conv"])
def test_dino_whole_steps(dtype, kind):
    arrays, config = read(f"dino_{kind}_step.npz")
    settings = DINOConfig(
        prototypes=config["dout"], hidden=config["hid"], bottleneck=config["bott"],
        learn_lengths=not config["norm_last"], momentum=config["m"],
        teacher_temperature=config["tt"], teacher_temperature_start=config["wtt"],
        teacher_warmup_epochs=config["wte"], freeze_last_layer_epochs=config["freeze"],
        drop_path=0.0,
    )  # fmt: skip
    model = Replayed(tiny_vit(config) if kind == "vit" else NoHead(), settings).train()
    init = part(arrays, "init/student/")
    state = {f"{who}.{name}": a for who in ("student", "teacher") for name, a in init.items()}
    assert load(model, state, dtype=dtype) == ["center"]
    optimizer_settings = Optimizer(
        name=config["opt"], lr=config["lr"], weight_decay=config["wd"],
        weight_decay_end=config["wde"], decayed="matrices", clip=config["clip"], clip_each=True,
    )  # fmt: skip
    optimizer = optimizer_settings.over(model)
    names = {id(p): name for name, p in model.named_parameters()}
    for group, label in zip(optimizer.param_groups, ("decayed", "not_decayed"), strict=True):
        wants = {f"student.{name}" for name in arrays[f"groups/{label}"]}
        assert {names[id(p)] for p in group["params"]} == wants
    schedule = Schedule(every="step", warmup_epochs=config["warm"], warmup_reaches_base=True,
                        floor=1e-6)  # fmt: skip
    epochs, iters = config["epochs"], config["iters"]
    got = {name: [] for name in ("loss", "center_after", "lr", "wd", "momentum")}
    for step, (large, small) in enumerate(
        zip(arrays["in/global_u8"], arrays["in/local_u8"], strict=True)
    ):
        share, epoch = step / (epochs * iters), step / iters
        rate = schedule.rate(config["lr"], step=step, steps_per_epoch=iters, epochs=epochs)
        optimizer_settings.set(optimizer, rate=rate, share=share)
        model.before_step(epoch=epoch, epochs=epochs)
        loss = model([*torch.from_numpy(large), *torch.from_numpy(small)])
        optimizer.zero_grad()
        loss.backward()
        model.before_update()
        optimizer_settings.clip_gradients([p for p in model.parameters() if p.requires_grad])
        optimizer.step()
        model.after_step()
        group = optimizer.param_groups[0]
        for name, value in (
            ("loss", loss.item()), ("center_after", model.center[0].numpy().copy()),
            ("lr", group["lr"]), ("wd", group["weight_decay"]),
            ("momentum", momentum_at(share, start=config["m"])),
        ):  # fmt: skip
            got[name].append(value)
    tolerance = TOLERANCE[dtype][1]
    for name, values in got.items():
        assert_close(np.array(values), arrays[f"out/{name}"], tolerance=tolerance, name=name)
    for name, values in zip(("student", "teacher"), model.first, strict=True):
        want = arrays[f"out/{name}_out_step0"]
        assert_close(values, want, tolerance=tolerance, name=f"{name}_out_step0")
    assert_state(model, part(arrays, "final/"), name_of=lambda name: name.replace("/", "."),
                 tolerance=tolerance,
                 leave_out=("attn.qkv.bias",) if dtype == torch.float32 else ())  # fmt: skip


def losses_of(student, teacher, temperatures, *, config, center, dtype):
    """Losses of consecutive steps, the centre behind each, the students' gradients."""
    model = DINO(NoHead(), config).to(dtype)
    model.center.copy_(tensor(center, dtype))
    losses, centers, gradients = [], [], []
    for scores, answers, temperature in zip(student, teacher, temperatures, strict=True):
        model.temperature = temperature
        leaf = tensor(scores, dtype).requires_grad_()
        loss, _ = model.loss(leaf, tensor(answers, dtype))
        loss.backward()
        model.recentre(tensor(answers, dtype))
        losses.append(loss.item())
        centers.append(model.center.numpy().copy())
        gradients.append(leaf.grad.numpy())
    return np.array(losses), np.array(centers), np.array(gradients)


@dtypes
@pytest.mark.parametrize("case", [0, 1])
def test_dino_loss_and_center(dtype, case):
    arrays, configs = read("dino_fn.npz")
    config = configs["loss"][case]
    given, wants = part(arrays, f"loss{case}/in/"), part(arrays, f"loss{case}/out/")
    settings = DINOConfig(drop_path=0.0, prototypes=config["D"], hidden=4, bottleneck=4,
                          student_temperature=config["st"],
                          center_momentum=config["cm"])  # fmt: skip
    table = [teacher_temperature(epoch, first=config["wtt"], last=config["tt"],
                                 warmup_epochs=config["wte"])
             for epoch in range(config["nep"])]  # fmt: skip
    losses, centers, gradients = losses_of(
        given["student"], given["teacher"], [table[int(e)] for e in given["epoch"]],
        config=settings, center=given["center"], dtype=dtype,
    )  # fmt: skip
    got = {"loss": losses, "center_after": centers, "grad_student": gradients,
           "teacher_temp_by_epoch": np.array(table)}  # fmt: skip
    assert_all_close(got, wants, tolerance=TOLERANCE[dtype][0])


def losses_of_rank(given, config, dtype):
    rank = distributed.rank()
    settings = DINOConfig(drop_path=0.0, prototypes=config["D"], hidden=4, bottleneck=4)
    losses, centers, _ = losses_of(given["student"][rank], given["teacher"][rank], [0.04, 0.04],
                                   config=settings, center=np.zeros((1, config["D"])),
                                   dtype=dtype)  # fmt: skip
    return losses, centers[:, 0]


@dtypes
def test_dino_center_on_two_ranks(dtype):
    arrays, configs = read("dino_fn.npz")
    given = part(arrays, "ddp2/in/")
    ranks = run_ranks(losses_of_rank, 2, given, configs["ddp"], dtype)
    tolerance = TOLERANCE[dtype][0]
    losses = np.array([losses for losses, _ in ranks])
    assert_close(losses, arrays["ddp2/out/loss_per_rank"], tolerance=tolerance, name="loss")
    for _, centers in ranks:
        want = arrays["ddp2/out/center_after"]
        assert_close(centers, want, tolerance=tolerance, name="center_after")


@dtypes
@pytest.mark.parametrize("kind", ["normlast", "free"])
def test_dino_head(dtype, kind):
    arrays, configs = read("dino_fn.npz")
    sizes, name = configs["head"], f"head_{kind}"
    given, wants = part(arrays, f"{name}/in/"), part(arrays, f"{name}/out/")
    head = DINOHead(sizes["din"], hidden=sizes["hid"], bottleneck=sizes["bott"],
                    count=sizes["dout"], learn_lengths=kind == "free")  # fmt: skip
    assert load(head, part(arrays, f"{name}/init/"), dtype=dtype) == []
    x = tensor(given["x"], dtype).requires_grad_()
    y = head(x)
    y.backward(tensor(given["grad_out"], dtype))
    got = {"y": y, "grad_x": x.grad}
    got |= {f"grad/{name}": p.grad for name, p in head.named_parameters() if p.requires_grad}
    assert_all_close(got, wants, tolerance=TOLERANCE[dtype][0])


@dtypes
def test_dino_positions_of_other_crops(dtype):
    arrays, configs = read("dino_fn.npz")
    table = tensor(arrays["pos/in/pos_embed"], dtype)[None]
    for pixels in configs["pos"]["crops"]:
        side = pixels // configs["pos"]["patch"]
        got = resized_positions(table, rows=side, columns=side)[0]
        assert_close(got, arrays[f"pos/out/crop{pixels}"], tolerance=TOLERANCE[dtype][0],
                     name=f"crop{pixels}")  # fmt: skip


@dtypes
@pytest.mark.parametrize("case", [0, 1])
def test_dino_clips_every_parameter_by_itself(dtype, case):
    arrays, _ = read("dino_fn.npz")
    given, wants = part(arrays, f"clip{case}/in/"), part(arrays, f"clip{case}/out/")
    clip = float(given.pop("clip"))
    parameters = {name: nn.Parameter(torch.zeros(a.shape, dtype=dtype))
                  for name, a in given.items()}  # fmt: skip
    for name, parameter in parameters.items():
        parameter.grad = tensor(given[name], dtype)
    norms = np.array([p.grad.norm().item() for p in parameters.values()])
    total = Optimizer(clip=clip, clip_each=True).clip_gradients(list(parameters.values()))
    assert total.item() == pytest.approx(np.linalg.norm(norms), rel=1e-5)
    got = {"norms": norms} | {name: p.grad for name, p in parameters.items()}
    assert_all_close(got, wants, tolerance=TOLERANCE[dtype][0])
