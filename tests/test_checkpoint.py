import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import context

from ssl4eo_stream.errors import CheckpointError
from ssl4eo_stream.train.checkpoint import Checkpoint, checkpoints, load, save

STATE = Checkpoint(
    step=7,
    model={"weight": torch.arange(1000.0)},
    optimizer={"state": {}, "param_groups": []},
    loader={"epoch": 1, "intervals": [[0, 5]]},
    rng=[{"cpu": torch.get_rng_state()}],
    run={"name": "test", "batch_size": 8},
    recipe="print()",
    versions={"torch": str(torch.__version__)},
)


def test_what_is_written_is_read(tmp_path):
    path = save(STATE, folder=tmp_path / "new", keep=2, epoch_done=None)
    assert path.name == "checkpoint-000007.pt"
    back = Checkpoint.read(path)
    assert torch.equal(back.model["weight"], STATE.model["weight"])
    for name in ("step", "loader", "run", "recipe", "versions"):
        assert getattr(back, name) == getattr(STATE, name)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return save(STATE, folder=tmp_path_factory.mktemp("written"), keep=2, epoch_done=None)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_named_damaged(written, share):
    data = written.read_bytes()
    cut = written.with_name("checkpoint-000099.cut")
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"checkpoint-000099\.cut is missing or damaged"):
        Checkpoint.read(cut)


def test_a_damaged_newest_is_skipped_with_its_name(tmp_path, caplog):
    for step in (1, 2):
        path = save(replace(STATE, step=step), folder=tmp_path, keep=5, epoch_done=None)
    path.write_bytes(path.read_bytes()[:-100])
    loaded = load("auto", folder=tmp_path)
    assert loaded is not None
    assert loaded.step == 1
    assert "checkpoint-000002.pt is missing or damaged" in caplog.text
    # the next save must not count the damaged one among those to keep
    save(replace(STATE, step=1), folder=tmp_path, keep=1, epoch_done=None)
    loaded = load("auto", folder=tmp_path)
    assert loaded is not None


def test_nothing_to_go_on_from(tmp_path):
    assert load("auto", folder=tmp_path / "missing") is None
    assert load("never", folder=tmp_path) is None
    with pytest.raises(CheckpointError, match=r"gone\.pt is missing"):
        load(tmp_path / "gone.pt", folder=tmp_path)
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step:06d}.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="None of the 2 checkpoints"):
        load("auto", folder=tmp_path)


class Payload:
    def __reduce__(self):
        return os.system, ("exit 3",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 99}, "has checkpoint format 99"),
        ([1, 2], "has checkpoint format None"),
        ({"format": 1, "model": Payload()}, "missing or damaged"),
    ],
)
def test_foreign_files_run_nothing(tmp_path, content, message):
    torch.save(content, tmp_path / "checkpoint-000001.pt")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.read(tmp_path / "checkpoint-000001.pt")


def test_epochs_to_keep_outlive_the_others(tmp_path):
    for step in range(1, 7):
        done = step // 2 if step % 2 == 0 else None
        save(replace(STATE, step=step), folder=tmp_path, keep=1, epoch_done=done)
    assert [p.name for p in checkpoints(tmp_path)] == [
        "checkpoint-000006-epoch-003.pt",
        "checkpoint-000005.pt",
        "checkpoint-000004-epoch-002.pt",
        "checkpoint-000002-epoch-001.pt",
    ]


def save_for_ever(folder: Path) -> None:
    start = load("auto", folder=folder)
    step = start.step if start else 0
    while True:
        step += 1
        weight = torch.full((300_000,), float(step))
        save(replace(STATE, step=step, model={"weight": weight}), folder=folder, keep=2,
             epoch_done=None)  # fmt: skip


def test_a_kill_during_save_leaves_a_loadable_checkpoint(tmp_path):
    newest = 0
    for delay in (0.0, 0.003, 0.007, 0.013, 0.02):
        process = context.Process(target=save_for_ever, args=(tmp_path,), daemon=True)
        process.start()
        deadline = time.monotonic() + 60
        while len(checkpoints(tmp_path)) == 0 or load_step(tmp_path) <= newest:
            assert time.monotonic() < deadline, "the saving process made nothing"
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = checkpoints(tmp_path)
        loaded = Checkpoint.read(found[0])  # the newest name is whole, whenever the kill came
        assert torch.equal(loaded.model["weight"], torch.full((300_000,), float(loaded.step)))
        assert loaded.step > newest
        newest = loaded.step


def load_step(folder):
    return int(checkpoints(folder)[0].stem.split("-")[1])
