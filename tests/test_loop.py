import math
import os
import signal

import pytest
import torch
from oracles.moco import TinyConvNet
from ranks import run_ranks
from tiny_run import (
    CPU,
    DrawingMoCo,
    MemoryLoader,
    assert_same_state,
    build,
    go,
    newest,
    recorded,
    tiny_run,
)

from ssl4eo_stream import distributed
from ssl4eo_stream.errors import CheckpointError
from ssl4eo_stream.methods.moco import MoCo, MoCoConfig
from ssl4eo_stream.train.checkpoint import checkpoints
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.signals import StopSignals
from ssl4eo_stream.train.trainer import Trainer


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks: a second thread only waits, and sums would depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert go(tiny_run(folder)) == 6
    return folder


def test_the_numbers_are_recorded(whole):
    rows = recorded(whole)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert [row["lr"] for row in rows] == [0.1] * 3 + [0.05] * 3
    for row in rows:
        assert math.isfinite(row["loss"])
        assert row["samples_per_second"] > 0
        assert row["wait_share"] == 0.25
        assert 0 <= row["top1"] <= 1
    assert list((whole / "tensorboard").iterdir())
    saved = newest(whole)
    assert saved.run["method"]["queue"] == 32
    assert saved.recipe.startswith('"""A run that takes a tenth')
    assert "torch" in saved.versions


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_resuming_after_any_step_equals_not_stopping(whole, tmp_path, step):
    assert go(tiny_run(tmp_path, max_steps=step)) == step
    assert go(tiny_run(tmp_path)) == 6
    assert_same_state(newest(tmp_path), newest(whole))
    ours, theirs = recorded(tmp_path), recorded(whole)
    assert [row["step"] for row in ours] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in ours] == [row["loss"] for row in theirs]


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    run = tiny_run(tmp_path, max_steps=6)
    go(run)
    before = newest(tmp_path)
    assert go(run) == 6
    assert_same_state(newest(tmp_path), before)


def test_steps_past_the_checkpoint_are_recorded_once(whole, tmp_path):
    def die(step):
        if step == 5:
            raise ConnectionError("the data went away")

    go(tiny_run(tmp_path, max_steps=3))
    with pytest.raises(ConnectionError):
        go(tiny_run(tmp_path), at_step=die)
    assert [row["step"] for row in recorded(tmp_path)] == [1, 2, 3, 4, 5]
    assert newest(tmp_path).step == 3
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert go(tiny_run(tmp_path)) == 6
    assert [row["step"] for row in recorded(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert_same_state(newest(tmp_path), newest(whole))


@pytest.mark.parametrize("signum", StopSignals.SIGNALS)
def test_a_signal_finishes_the_step_and_saves(whole, tmp_path, signum):
    def raise_signal(step):
        if step == 3:
            os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    assert go(tiny_run(tmp_path), at_step=raise_signal) == 4
    assert signal.getsignal(signum) == before
    assert newest(tmp_path).step == 4
    assert go(tiny_run(tmp_path)) == 6
    assert_same_state(newest(tmp_path), newest(whole))


def test_a_request_may_arrive_several_times():
    with StopSignals(grace_seconds=1000.0) as stop:
        for signum in (*StopSignals.SIGNALS, *StopSignals.SIGNALS):
            os.kill(os.getpid(), signum)
        assert stop.received == signal.SIGTERM


def test_a_later_interrupt_is_not_held_back():
    with StopSignals(grace_seconds=0.0) as stop:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), signum)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class Diverging(DrawingMoCo):
    """The loss of the fourth step is not a number."""

    def forward(self, views):
        self.forwards = getattr(self, "forwards", 0) + 1
        return super().forward(views) * (math.nan if self.forwards == 4 else 1.0)


@pytest.mark.parametrize(
    ("log_every", "message"),
    [
        (1, r"The loss.*first at step 4, whose batch shows 0000000 .* at step 4"),
        (100, r"A weight .* at step 4"),
    ],
)
def test_divergence_stops_the_run_and_leaves_a_sound_checkpoint(tmp_path, log_every, message):
    run = tiny_run(tmp_path, log_every=log_every, checkpoint_minutes=0.0)
    with pytest.raises(FloatingPointError, match=message):
        go(run, build=lambda run, channels: Diverging(TinyConvNet(channels), run.method))
    saved = newest(tmp_path)
    assert saved.step == 3
    assert all(v.isfinite().all() for v in saved.model.values() if v.is_floating_point())


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"checkpoint_minutes": 0.0}, ["000006", "000005"]),
        ({"checkpoint_minutes": 0.0, "checkpoint_keep": 3}, ["000006", "000005", "000004"]),
        ({"checkpoint_keep_epochs": 1}, ["000006-epoch-002", "000003-epoch-001"]),
        ({"checkpoint_keep_epochs": 2}, ["000006-epoch-002"]),
        ({}, ["000006"]),
    ],
)
def test_which_checkpoints_stay(tmp_path, changes, names):
    go(tiny_run(tmp_path, **changes))
    assert [p.name for p in checkpoints(tmp_path)] == [f"checkpoint-{name}.pt" for name in names]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 16}, "--batch-size 8, this run has 16"),
        ({"method": MoCoConfig(dim=8, queue=64)}, "does not fit this run's network"),
        ({"resume": "never"}, "--resume never would mix with .*checkpoint-000002.pt"),
    ],
)
def test_another_run_is_refused(tmp_path, changes, message):
    go(tiny_run(tmp_path, max_steps=2))
    with pytest.raises(CheckpointError, match=message):
        go(tiny_run(tmp_path, **changes))


def test_a_changed_setting_is_named_and_used(tmp_path, caplog):
    go(tiny_run(tmp_path, max_steps=2))
    go(tiny_run(tmp_path, optimizer=Optimizer(lr=0.2, momentum=0.5), max_steps=3, workers=1))
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "The checkpoint had optimizer.lr 0.1, from here on it is 0.2.",
        "The checkpoint had optimizer.momentum 0.9, from here on it is 0.5.",
    ]
    group = newest(tmp_path).optimizer["param_groups"][0]
    assert (group["lr"], group["momentum"]) == (0.2, 0.5)


def test_a_path_goes_on_from_that_file(whole, tmp_path):
    go(tiny_run(tmp_path / "a", max_steps=2))
    path = checkpoints(tmp_path / "a")[0]
    assert go(tiny_run(tmp_path / "b", resume=path)) == 6
    assert_same_state(newest(tmp_path / "b"), newest(whole))
    with pytest.raises(CheckpointError, match="newer checkpoints"):
        go(tiny_run(tmp_path / "b", resume=path))


def test_bf16_keeps_losses_and_queue_in_fp32(tmp_path):
    seen = []

    class Watching(MoCo):
        def logits(self, q, k):
            seen.extend([q.dtype, super().logits(q, k).dtype])
            return super().logits(q, k)

    run = tiny_run(tmp_path, precision="bf16", max_steps=2)
    go(run, build=lambda run, channels: Watching(TinyConvNet(channels), run.method))
    assert seen == [torch.float32] * 4
    full = tiny_run(tmp_path / "full", precision="fp32", max_steps=2)
    go(full, build=lambda run, channels: MoCo(TinyConvNet(channels), run.method))
    losses = [[row["loss"] for row in recorded(r.output)] for r in (run, full)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def train_plainly(output, stop_rank, stop_step):
    """One rank's run; a rank may get a signal before a step."""

    def at_step(step):
        if distributed.rank() == stop_rank and step == stop_step:
            os.kill(os.getpid(), signal.SIGTERM)

    run = tiny_run(output)
    return go(run, build=lambda run, channels: MoCo(TinyConvNet(channels), run.method),
              at_step=at_step)  # fmt: skip


def test_two_ranks_are_one_with_two_groups_and_stop_together(tmp_path):
    assert run_ranks(train_plainly, 2, tmp_path / "two", 1, 3) == [4, 4]
    assert run_ranks(train_plainly, 2, tmp_path / "two", None, None) == [6, 6]
    assert train_plainly(tmp_path / "one", None, None) == 6
    two, one = newest(tmp_path / "two"), newest(tmp_path / "one")
    assert len(two.rng) == 2
    assert two.model.keys() == one.model.keys()
    for name, value in one.model.items():
        assert torch.allclose(two.model[name].double(), value.double(), atol=1e-5), name
    losses = [[row["loss"] for row in recorded(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_ranks_draw_differently(tmp_path):
    first, second = run_ranks(first_draw, 2, tmp_path)
    assert first != second


def first_draw(output):
    Trainer(tiny_run(output), build, loader=MemoryLoader(batch_size=8), device=CPU)
    return torch.rand(()).item()


@pytest.mark.gpu
def test_a_gpu_does_what_a_cpu_does(whole, tmp_path):
    if not torch.cuda.is_available():
        assert not os.environ.get("REQUIRE_GPU"), "REQUIRE_GPU is set and there is no CUDA device"
        pytest.skip("needs a CUDA device")
    cuda = torch.device("cuda", 0)
    assert go(tiny_run(tmp_path, precision="fp32", max_steps=3), device=cuda) == 3
    assert go(tiny_run(tmp_path, precision="fp32"), device=cuda) == 6
    losses = [[row["loss"] for row in recorded(folder)] for folder in (tmp_path, whole)]
    assert losses[0][:2] == pytest.approx(losses[1][:2], rel=0.01)
    assert all(math.isfinite(loss) for loss in losses[0])
