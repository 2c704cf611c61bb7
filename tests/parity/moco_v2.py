"""MoCo-v2 against its published code's numbers."""

import numpy as np
import torch
import torch.nn.functional as F
from oracles.moco import TinyConvNet
from parity.arrays import TOLERANCE, assert_close, dtypes, part, read
from ranks import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ssl4eo_stream import distributed
from ssl4eo_stream.methods.moco import MoCo, MoCoConfig
from ssl4eo_stream.methods.teacher import MovingAverage
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.schedule import Schedule


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
        rate = Schedule(every="epoch").rate(
            settings.lr, step=step, steps_per_epoch=1, epochs=config["epochs"]
        )
        settings.set(optimizer, rate=rate, share=0.0)
        moco.before_step(epoch=float(step), epochs=config["epochs"])
        loss = model((torch.from_numpy(q[rows]), torch.from_numpy(k[rows])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    final = {key: v.numpy() for key, v in moco.state_dict().items() if key != "_extra_state"}
    return np.array(losses), moco.first_logits.numpy(), final


def assert_final(final, wants, *, tolerance):
    for name, want in wants.items():
        if not name.endswith("num_batches_tracked"):
            assert_close(final[ours(name)], want, tolerance=tolerance, name=name)


@dtypes
def test_moco_v2_whole_steps(dtype):
    arrays, config = read("moco_v2_step.npz")
    losses, logits, final = whole_steps(arrays, config, dtype, 1)
    tolerance = TOLERANCE[dtype][1]
    assert_close(losses, arrays["out/loss"], tolerance=tolerance, name="loss")
    assert_close(logits, arrays["out/logits_step0"], tolerance=tolerance, name="logits")
    assert_final(final, part(arrays, "final/"), tolerance=tolerance)


@dtypes
def test_moco_v2_on_two_ranks(dtype):
    arrays, config = read("moco_v2_ddp2.npz")
    ranks = run_ranks(whole_steps, 2, arrays, config, dtype, 2)
    tolerance = TOLERANCE[dtype][1]
    for rank, (losses, logits, final) in enumerate(ranks):
        for name, got in (("loss", losses), ("logits_step0", logits)):
            want = arrays[f"out/{name}_per_rank"][rank]
            assert_close(got, want, tolerance=tolerance, name=f"{name} of rank {rank}")
        wants = part(arrays, "final_rank0/") | part(arrays, f"final_rank{rank}/")
        assert_final(final, wants, tolerance=tolerance)


@dtypes
def test_moco_v2_groups_on_one_rank_are_the_two_ranks(dtype):
    arrays, config = read("moco_v2_ddp2.npz")
    losses, logits, final = whole_steps(arrays, config, dtype, 2)
    tolerance = TOLERANCE[dtype][1]
    wants = {"loss": arrays["out/loss_per_rank"].mean(axis=0),
             "logits": np.concatenate(arrays["out/logits_step0_per_rank"])}  # fmt: skip
    for name, got in (("loss", losses), ("logits", logits)):
        assert_close(got, wants[name], tolerance=tolerance, name=name)
    assert_final(final, part(arrays, "final_rank0/"), tolerance=tolerance)


@dtypes
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


@dtypes
def test_moco_v2_moving_average(dtype):
    arrays, _ = read("moco_v2_fn.npz")
    student, teacher = (Named(part(arrays, f"ema/in/{key}/"), dtype) for key in "qk")
    for _ in range(3):
        MovingAverage(teacher, student=student).move(momentum=float(arrays["ema/in/m"]))
    wants = part(arrays, "ema/out/k_after3/")
    assert wants
    for name, want in wants.items():
        got = teacher.get_parameter(name.replace(".", "_")) if "running" not in name else (
            teacher.get_buffer(name.replace(".", "_")))  # fmt: skip
        assert_close(got, want, tolerance=TOLERANCE[dtype][0], name=name)
