import subprocess
import sys

import pytest
import torch
from ranks import run_ranks

from ssl4eo_stream import distributed


def everything():
    rank, size = distributed.rank(), distributed.world_size()
    distributed.barrier()
    return {
        "rank": rank,
        "world_size": size,
        "broadcast_object": distributed.broadcast_object({"from": rank}),
        "gather": distributed.gather(("rank", rank)),
        "broadcast": distributed.broadcast(torch.full((2,), float(rank))).tolist(),
        "gather_rows": distributed.gather_rows(
            torch.full((2, 3), rank, dtype=torch.uint8)
        ).tolist(),
        "mean": distributed.mean(torch.tensor([float(rank), 10.0])).tolist(),
        "maximum": distributed.maximum([rank, -rank, 5]),
    }


def expected(rank, size):
    return {
        "rank": rank,
        "world_size": size,
        "broadcast_object": {"from": 0},
        "gather": [("rank", r) for r in range(size)],
        "broadcast": [0.0, 0.0],
        "gather_rows": [[r] * 3 for r in range(size) for _ in range(2)],
        "mean": [sum(range(size)) / size, 10.0],
        "maximum": [size - 1, 0, 5],
    }


def test_one_process_needs_no_group():
    assert everything() == expected(0, 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_ranks_agree(size):
    assert run_ranks(everything, size) == [expected(rank, size) for rank in range(size)]


def channels_last_rows():
    rank = distributed.rank()
    images = torch.arange(24.0).reshape(1, 2, 3, 4) + 100 * rank
    return distributed.gather_rows(images.to(memory_format=torch.channels_last)).tolist()


def test_rows_keep_their_shape_in_channels_last():
    want = [(torch.arange(24.0).reshape(2, 3, 4) + 100 * rank).tolist() for rank in range(2)]
    assert run_ranks(channels_last_rows, 2) == [want, want]


def gradients():
    weight = torch.ones(2, requires_grad=True)
    rows = distributed.gather_rows((weight * 3)[None])
    return rows.requires_grad, distributed.mean(weight * 3).requires_grad


def test_no_gradient_passes():
    assert gradients() == (False, False)
    assert run_ranks(gradients, 2) == [(False, False)] * 2


def fail_on_rank_1():
    if distributed.rank() == 1:
        raise KeyError("the reason")


def test_a_failing_rank_is_heard():
    with pytest.raises(AssertionError, match=r"rank 1 failed:(.|\n)*KeyError: 'the reason'"):
        run_ranks(fail_on_rank_1, 2)


def test_importing_it_leaves_torch_alone():
    code = "import sys, ssl4eo_stream.distributed; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_torchrun_there_is_no_group(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with distributed.process_group("cpu") as device:
        assert device == torch.device("cpu")
        assert not torch.distributed.is_initialized()


def test_torchrun_s_environment_makes_a_group_and_leaves_none(monkeypatch):
    environment = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "0"}  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with distributed.process_group("cpu"):
        assert everything() == expected(0, 1)
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()
