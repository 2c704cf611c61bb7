import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.moco import TinyConvNet, loss_and_queue, unit_rows
from ranks import run_ranks
from torch import nn

from ssl4eo_stream.methods.moco import MoCo, MoCoConfig
from ssl4eo_stream.train.trainer import Method


def images(batch, *, seed=0, channels=13):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, 8, 8)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def moco(**changes):
    torch.manual_seed(0)
    config = {"dim": 8, "queue": 16, "batch_norm_groups": 2} | changes
    return MoCo(TinyConvNet(), MoCoConfig(**config))


def test_it_is_what_the_loop_trains():
    assert isinstance(moco(), Method)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 5), batches=st.integers(1, 4), dim=st.integers(2, 9),
    temperature=st.floats(0.05, 1.0), seed=st.integers(0, 99),
)  # fmt: skip
def test_loss_and_queue_equal_the_slow_formula(batch, batches, dim, temperature, seed):
    rng = np.random.default_rng(seed)
    model = moco(dim=dim, queue=batch * batches, temperature=temperature).double()
    queue = unit_rows(rng.normal(size=(batch * batches, dim))).T
    model.queue.copy_(torch.from_numpy(queue))
    pointer = 0
    for _ in range(batches + 1):
        q, k = (unit_rows(rng.normal(size=(batch, dim))) for _ in range(2))
        logits = model.logits(torch.from_numpy(q), torch.from_numpy(k))
        loss = F.cross_entropy(logits, torch.zeros(batch, dtype=torch.int64)).item()
        model.enqueue(torch.from_numpy(k))
        want, queue, pointer = loss_and_queue(q, k, queue, pointer=pointer, temperature=temperature)
        assert loss == pytest.approx(want, rel=1e-9)
        np.testing.assert_allclose(model.queue.numpy(), queue)
        assert model.queue_pointer.item() == pointer


def test_it_starts_with_a_copy_and_unit_negatives():
    model = moco(queue=4096, dim=32)
    for q, k in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True):
        assert torch.equal(q, k)
        assert (q.requires_grad, k.requires_grad) == (True, False)
        assert q.data_ptr() != k.data_ptr()
    assert torch.allclose(model.queue.norm(dim=0), torch.ones(4096))
    assert model.queue.mean().abs() < 0.01
    assert model.backbone is model.encoder_q.backbone


def test_no_gradient_reaches_keys_or_queue():
    model = moco()
    model([images(8), images(8, seed=1)]).backward()
    assert all(p.grad is not None for p in model.encoder_q.parameters())
    assert all(p.grad is None for p in model.encoder_k.parameters())
    assert not model.queue.requires_grad


def test_top1_counts_queries_that_find_their_key():
    model = moco(queue=8, dim=2, batch_norm_groups=1)
    model.encoder_q = model.encoder_k = Colour()
    model.queue.copy_(torch.tensor([[1.0], [0.0]]).repeat(1, 8))
    # two of four queries show their key's colour; the others see a queue that fits better
    red, green = torch.zeros(2, 4, 13, 8, 8, dtype=torch.uint8)
    red[:, 0], green[:, 1] = 255, 255
    model([torch.cat([green[:2], red[:2]]), green])
    assert model.metrics["top1"].item() == 0.5


class Colour(nn.Module):
    """Embeds an image by the means of its first two bands."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.scale * x[:, :2].mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("queue", "batch", "nearest"), [(100, 64, 128), (65_536, 96, 65_568), (10, 16, 16)]
)
def test_a_queue_that_does_not_fit_says_what_does(queue, batch, nearest):
    with pytest.raises(ValueError, match=rf"{queue} .* of {batch}, .* --method.queue {nearest}\."):
        moco(queue=queue).enqueue(torch.zeros(batch, 8))


def test_a_batch_that_does_not_split_says_so():
    with pytest.raises(ValueError, match="batch of 9 per rank does not split into 2 batch norm"):
        moco()([images(9), images(9)])


@pytest.mark.parametrize(
    ("field", "value"),
    [("dim", 0), ("queue", 0), ("batch_norm_groups", 0), ("momentum", 1.5), ("temperature", 0.0)],
)
def test_nonsense_is_refused(field, value):
    with pytest.raises(ValueError, match=f"--method.{field} is {value}"):
        MoCoConfig(**{field: value})


def test_groups_are_separate_batches_and_only_the_first_is_recorded():
    model, x = moco(batch_norm_groups=2), images(8)
    twin = moco(batch_norm_groups=1)
    got = model.encode(model.encoder_q, x)
    want_first = twin.encode(twin.encoder_q, x[:4])
    statistics = {name: b.clone() for name, b in twin.encoder_q.named_buffers()}
    want_second = twin.encode(twin.encoder_q, x[4:])
    assert torch.equal(got, torch.cat([want_first, want_second]))
    for name, value in model.encoder_q.named_buffers():
        assert torch.equal(value, statistics[name]), name


def test_keys_come_back_in_order():
    model = moco(batch_norm_groups=1).eval()
    want = model.encode(model.encoder_k, images(8))
    got = model.shuffled_keys(images(8))
    assert torch.allclose(got, want, atol=1e-6)


def test_the_shuffle_mixes_the_groups():
    model = moco()
    orders = [model.permutation(64) for _ in range(20)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(64))
        assert 0 < (order[:32] < 32).sum() < 32
    assert len({tuple(order.tolist()) for order in orders}) == 20


def test_shuffles_go_on_from_a_saved_state():
    model = moco()
    model.permutation(64)
    state = model.state_dict()
    want = model.permutation(64)
    torch.manual_seed(99)
    other = MoCo(TinyConvNet(), model.config)
    assert not torch.equal(other.permutation(64), want)
    other.load_state_dict(state)
    assert torch.equal(other.permutation(64), want)


def permutations_of_this_rank():
    torch.manual_seed(torch.distributed.get_rank())
    model = MoCo(TinyConvNet(), MoCoConfig(dim=8, queue=16))
    return [model.permutation(16).tolist() for _ in range(3)]


def test_all_ranks_shuffle_as_rank_0():
    first, second = run_ranks(permutations_of_this_rank, 2)
    assert first == second
