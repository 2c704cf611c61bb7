"""Rank, world, gather, mean: the same calls work with one process and no group.

torch is imported only when a function is called, so that a loader's worker can import this module
without it. With several processes every function but `rank` and `world_size` is a collective: all
ranks call it, in the same order.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


def _group() -> ModuleType | None:
    """Return `torch.distributed` where a process group exists, else None."""
    import torch.distributed

    group = torch.distributed
    return group if group.is_available() and group.is_initialized() else None


def rank() -> int:
    """Return this process's number, 0 … `world_size()` - 1."""
    group = _group()
    return group.get_rank() if group else 0


def world_size() -> int:
    """Return the number of processes that train together."""
    group = _group()
    return group.get_world_size() if group else 1


def has_nccl() -> bool:
    """Return whether processes exchange CUDA tensors."""
    group = _group()
    return group is not None and "nccl" in group.get_backend_config()


def barrier() -> None:
    """Wait until every rank is here."""
    if group := _group():
        group.barrier()


def broadcast_object(value: T) -> T:
    """Return rank 0's `value` on every rank; it must pickle."""
    group = _group()
    if group is None:
        return value
    box = [value]
    group.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """Return every rank's `value` in rank order; they must pickle."""
    group = _group()
    if group is None:
        return [value]
    values: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(values, value)
    return values


def broadcast(tensor: "Tensor") -> "Tensor":
    """Overwrite `tensor` with rank 0's, on its own device, and return it."""
    if group := _group():
        group.broadcast(tensor, src=0)
    return tensor


def gather_rows(tensor: "Tensor") -> "Tensor":
    """Return the rows of every rank's `tensor`, (world * N, …), in rank order, without gradient.

    Args:
        tensor: (N, …), of the same shape and type on every rank.
    """
    tensor = tensor.detach().contiguous()
    group = _group()
    if group is None:
        return tensor
    rows = tensor.new_empty((group.get_world_size() * len(tensor), *tensor.shape[1:]))
    group.all_gather_into_tensor(rows, tensor)
    return rows


def mean(tensor: "Tensor") -> "Tensor":
    """Return the elementwise mean of every rank's floating point `tensor`, without gradient."""
    tensor = tensor.detach()
    group = _group()
    if group is None:
        return tensor
    total = tensor.clone()
    group.all_reduce(total)
    return total / group.get_world_size()


def mean_with_gradient(tensor: "Tensor") -> "Tensor":
    """Return the elementwise mean of every rank's `tensor`; gradients flow back to every rank's."""
    import torch.distributed.nn.functional

    if _group() is None:
        return tensor
    return torch.distributed.nn.functional.all_reduce(tensor) / world_size()


def maximum(values: list[int]) -> list[int]:
    """Return the elementwise maximum of every rank's small integers; never waits for a GPU."""
    import torch

    group = _group()
    if group is None:
        return values
    largest = torch.tensor(values)
    group.all_reduce(largest, op=group.ReduceOp.MAX)
    return largest.tolist()


@contextmanager
def process_group(device: str) -> Iterator["torch.device"]:
    """Join the processes that torchrun started, if it started this one.

    Args:
        device: `cuda`, `cpu`, or `auto`, which is CUDA where there is one.

    Yields:
        The device of this rank. Tensors of both kinds can be exchanged: nccl on CUDA, gloo on CPU.
    """
    import torch

    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    else:
        chosen = torch.device("cpu")
    if "RANK" not in os.environ:
        yield chosen
        return
    group: Any = torch.distributed
    store, number, ranks = next(group.rendezvous("env://"))
    # torchrun keeps its store when it begins the ranks anew; addresses of the dead would be found.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    group.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=group.PrefixStore(f"{attempt}-of-{ranks}", store),
        rank=number,
        world_size=ranks,
    )
    try:
        yield chosen
        barrier()
    finally:
        torch.distributed.destroy_process_group()
