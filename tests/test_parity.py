"""Our modules against numbers that the methods' published code produced."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.moco import TinyConvNet
from ranks import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssl4eo_stream import distributed
from ssl4eo_stream.methods.moco import MoCo, MoCoConfig
from ssl4eo_stream.methods.teacher import move_towards
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.schedule import Schedule

PARITY_DIR = Path(
    os.environ.get("PARITY_DIR", Path(__file__).parents[1].parent / "shared" / "parity")
)
TOLERANCE = {  # (rtol, atol) of the files' README: function files, whole-step files
    torch.float64: ((1e-5, 1e-6), (1e-5, 1e-6)),
    torch.float32: ((2e-5, 2e-6), (2e-4, 5e-6)),
}
DTYPES = [torch.float64, torch.float32]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks: a second thread only waits, and sums would depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def read(name):
    path = PARITY_DIR / name
    if not path.exists():
        pytest.skip(f"{path} is missing; set PARITY_DIR to the folder of golden vectors")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    config = json.loads(str(arrays.pop("meta")))["config"]
    return arrays, config


def part(arrays, prefix):
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def assert_close(got, want, *, tolerance, name):
    got = np.asarray(got.detach() if isinstance(got, torch.Tensor) else got, dtype=np.float64)
    rtol, atol = tolerance
    assert got.shape == want.shape, name
    worst = np.abs(got - want).max()
    limit = atol + rtol * np.abs(want).max()
    assert worst <= limit, f"{name}: off by {worst:.3g}, allowed {limit:.3g}"


def ours(name):
    """Name of a reference's tensor in our modules."""
    for encoder in ("encoder_q.", "encoder_k."):
        name = name.replace(encoder, encoder + "backbone.").replace("backbone.fc.", "head.")
    return name.replace("queue_ptr", "queue_pointer")


class Replayed(MoCo):
    """MoCo with the shuffles of the files, that remembers its first logits."""

    def __init__(self, *, config, orders, groups, dtype):
        settings = MoCoConfig(
            dim=config["dim"], queue=config["K"], momentum=config["m"], temperature=config["T"],
            batch_norm_groups=groups,
        )  # fmt: skip
        super().__init__(TinyConvNet(), settings)
        self.to(dtype)
        self.orders = iter(torch.from_numpy(orders.astype(np.int64)))
        self.first_logits = None

    def permutation(self, count):
        order = next(self.orders)
        assert len(order) == count
        return order

    def logits(self, q, k):
        logits = super().logits(q, k)
        self.first_logits = logits.detach() if self.first_logits is None else self.first_logits
        return logits


def whole_steps(arrays, config, dtype, groups):
    """Train on this rank's samples; return losses, first logits and the final state."""
    moco = Replayed(config=config, orders=arrays["in/idx_shuffle"], groups=groups, dtype=dtype)
    init = {ours(key): torch.from_numpy(a) for key, a in part(arrays, "init/").items()}
    missing, unexpected = moco.load_state_dict(init, strict=False)
    assert (missing, unexpected) == (["_extra_state"], [])
    model = DistributedDataParallel(moco) if distributed.world_size() > 1 else moco
    settings = Optimizer(lr=config["lr"], momentum=0.9, weight_decay=config["wd"])
    optimizer = settings.over(moco)
    rows = slice(
        distributed.rank() * arrays["in/im_q_u8"].shape[1] // distributed.world_size(),
        (distributed.rank() + 1) * arrays["in/im_q_u8"].shape[1] // distributed.world_size(),
    )
    losses = []
    for step, (q, k) in enumerate(zip(arrays["in/im_q_u8"], arrays["in/im_k_u8"], strict=True)):
        rate = Schedule(every="epoch").rate(settings.lr, epoch=float(step), epochs=config["epochs"])
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model((torch.from_numpy(q[rows]), torch.from_numpy(k[rows])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    final = {key: v.numpy() for key, v in moco.state_dict().items() if key != "_extra_state"}
    return np.array(losses), moco.first_logits.numpy(), final


def assert_state(final, wants, *, tolerance):
    for name, want in wants.items():
        if not name.endswith("num_batches_tracked"):
            assert_close(final[ours(name)], want, tolerance=tolerance, name=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moco_v2_whole_steps(dtype):
    arrays, config = read("moco_v2_step.npz")
    losses, logits, final = whole_steps(arrays, config, dtype, 1)
    tolerance = TOLERANCE[dtype][1]
    assert_close(losses, arrays["out/loss"], tolerance=tolerance, name="loss")
    assert_close(logits, arrays["out/logits_step0"], tolerance=tolerance, name="logits")
    assert_state(final, part(arrays, "final/"), tolerance=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moco_v2_on_two_ranks(dtype):
    arrays, config = read("moco_v2_ddp2.npz")
    ranks = run_ranks(whole_steps, 2, arrays, config, dtype, 2)
    tolerance = TOLERANCE[dtype][1]
    for rank, (losses, logits, final) in enumerate(ranks):
        for name, got in (("loss", losses), ("logits_step0", logits)):
            want = arrays[f"out/{name}_per_rank"][rank]
            assert_close(got, want, tolerance=tolerance, name=f"{name} of rank {rank}")
        wants = part(arrays, "final_rank0/") | part(arrays, f"final_rank{rank}/")
        assert_state(final, wants, tolerance=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moco_v2_groups_on_one_rank_are_the_two_ranks(dtype):
    arrays, config = read("moco_v2_ddp2.npz")
    losses, logits, final = whole_steps(arrays, config, dtype, 2)
    tolerance = TOLERANCE[dtype][1]
    wants = {"loss": arrays["out/loss_per_rank"].mean(axis=0),
             "logits": np.concatenate(arrays["out/logits_step0_per_rank"])}  # fmt: skip
    for name, got in (("loss", losses), ("logits", logits)):
        assert_close(got, wants[name], tolerance=tolerance, name=name)
    assert_state(final, part(arrays, "final_rank0/"), tolerance=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moco_v2_functions(dtype):
    arrays, config = read("moco_v2_fn.npz")
    tolerance = TOLERANCE[dtype][0]
    for case, numbers in enumerate(config["cases"]):
        given, wants = part(arrays, f"case{case}/in/"), part(arrays, f"case{case}/out/")
        settings = MoCoConfig(dim=numbers["C"], queue=numbers["K"], temperature=float(given["T"]))
        moco = MoCo(TinyConvNet(), settings).to(dtype)
        moco.queue.copy_(torch.from_numpy(given["queue"]))
        pairs = zip(given["q_raw"], given["k_raw"], strict=True)
        for step, (q_raw, k_raw) in enumerate(pairs):
            q_leaf = torch.from_numpy(q_raw).to(dtype).requires_grad_()
            k = F.normalize(torch.from_numpy(k_raw).to(dtype))
            logits = moco.logits(F.normalize(q_leaf), k)
            loss = F.cross_entropy(logits, torch.zeros(len(q_raw), dtype=torch.int64))
            moco.enqueue(k)
            loss.backward()
            if step == 0:
                for name, got in (("logits", logits), ("grad_q", q_leaf.grad)):
                    assert_close(got, wants[f"{name}_step0"], tolerance=tolerance, name=name)
            for name, got in (("loss", loss), ("queue_after", moco.queue),
                              ("ptr_after", moco.queue_pointer[0])):  # fmt: skip
                want = np.asarray(wants[name][step])
                assert_close(got, want, tolerance=tolerance, name=f"{name} of step {step}")


class Named(nn.Module):
    """Parameters and buffers by name."""

    def __init__(self, arrays, dtype):
        super().__init__()
        for name, array in arrays.items():
            value = torch.from_numpy(array).to(dtype)
            flat = name.replace(".", "_")
            if "running" in name:
                self.register_buffer(flat, value)
            else:
                self.register_parameter(flat, nn.Parameter(value))


@pytest.mark.parametrize("dtype", DTYPES)
def test_moco_v2_moving_average(dtype):
    arrays, _ = read("moco_v2_fn.npz")
    student, teacher = (Named(part(arrays, f"ema/in/{key}/"), dtype) for key in "qk")
    for _ in range(3):
        move_towards(teacher, student=student, momentum=float(arrays["ema/in/m"]))
    wants = part(arrays, "ema/out/k_after3/")
    assert wants
    for name, want in wants.items():
        got = teacher.get_parameter(name.replace(".", "_")) if "running" not in name else (
            teacher.get_buffer(name.replace(".", "_")))  # fmt: skip
        assert_close(got, want, tolerance=TOLERANCE[dtype][0], name=name)


@pytest.mark.parametrize("size", ["small", "paper"])
def test_schedules(size):
    arrays, _ = read("schedules.npz")
    given = part(arrays, f"{size}/")
    epochs, steps_per_epoch, warmup = (int(n) for n in given["in/epochs__iters__warmup_epochs"])
    by_epoch, by_step = Schedule(every="epoch"), Schedule(every="step", warmup_epochs=warmup)
    at = [int(step) / steps_per_epoch for step in given["in/step"]]
    rates = {
        "moco_v2_lr_by_epoch": [
            by_epoch.rate(0.03, epoch=float(e), epochs=epochs) for e in range(epochs)
        ],
        "moco_v3_lr": [by_step.rate(1.5e-4, epoch=e, epochs=epochs) for e in at],
        "mae_lr": [by_step.rate(1.5e-4, epoch=e, epochs=epochs) for e in at],
    }
    for name, got in rates.items():
        assert_close(got, given[name], tolerance=(1e-12, 0), name=name)
