"""The loader: exact, deterministic, resumable, on every kind of storage, and loud when it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from servers import http_server

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.errors import CheckpointError, ShardError, StorageError
from ssl4eo_stream.shard.manifest import Index
from ssl4eo_stream.strips import decode_sample, read_pages

VIEWS = MoCoViews(size=32)


def make(url, **changes):
    arguments = {"views": VIEWS, "batch_size": 3, "seed": 5} | changes
    return StreamLoader(str(url), **arguments)


def epoch_of(loader):
    return [(batch.keys, batch.dates.clone(), [view.clone() for view in batch.views])
            for batch in loader]  # fmt: skip


def same(first, second):
    return len(first) == len(second) and all(
        a[0] == b[0]
        and torch.equal(a[1], b[1])
        and all(torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True))
        for a, b in zip(first, second, strict=True)
    )


def test_batches_have_the_promised_form(shards):
    loader = make(shards)
    assert len(loader) == 5
    assert loader.channels == 13
    for batch in loader:
        assert len(batch.views) == 2
        for view in batch.views:
            assert view.shape == (3, 13, 32, 32)
            assert view.dtype == torch.uint8
            assert view.float().std() > 1
        assert batch.dates.shape == (3, 2)
        assert batch.dates.min() >= 0
        assert batch.dates.max() <= 3
        assert all(len(key) == 7 for key in batch.keys)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_location_once_an_epoch(shards, world_size, workers):
    keys = []
    for rank in range(world_size):
        with make(
            shards, rank=rank, world_size=world_size, workers=workers, batch_size=2
        ) as loader:
            keys += [key for batch in loader for key in batch.keys]
    steps = 16 // (2 * world_size)
    assert len(keys) == len(set(keys)) == steps * 2 * world_size


def test_workers_change_the_order_of_batches_but_no_pixel(shards):
    """A location's views depend on seed, epoch and id alone."""
    seen = []
    for workers in (0, 2):
        with make(shards, workers=workers, batch_size=4) as loader:
            seen.append({
                key: [view[i] for view in views]
                for keys, _, views in epoch_of(loader)
                for i, key in enumerate(keys)
            })  # fmt: skip
    assert seen[0].keys() == seen[1].keys()
    for key, views in seen[0].items():
        for one, other in zip(views, seen[1][key], strict=True):
            assert torch.equal(one, other)


def test_epochs_differ_and_runs_do_not(shards):
    loader = make(shards)
    first, second = epoch_of(loader), epoch_of(loader)
    assert loader.epoch == 2
    assert not same(first, second)
    again = make(shards)
    assert same(first, epoch_of(again))
    assert same(second, epoch_of(again))
    again.epoch = 0
    assert same(first, epoch_of(again))
    assert not same(first, epoch_of(make(shards, seed=6)))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_after_any_batch_equals_not_stopping(shards, workers):
    with make(shards, workers=workers) as loader:
        straight = epoch_of(loader) + epoch_of(loader)
    for stop in range(len(straight) // 2 + 1):
        with make(shards, workers=workers) as loader:
            got = []
            for batch in loader:
                if stop == 0:
                    break
                got.append((batch.keys, batch.dates.clone(), [v.clone() for v in batch.views]))
                if len(got) == stop:
                    state = json.loads(json.dumps(loader.state_dict()))
                    break
            if stop == 0:
                state = make(shards, workers=workers).state_dict()
        with make(shards, workers=workers) as loader:
            loader.load_state_dict(state)
            got += epoch_of(loader) + epoch_of(loader)
        assert same(got, straight)


def test_resuming_on_another_topology_repeats_and_loses_nothing(shards):
    place = make(shards, world_size=2, rank=0, batch_size=2).state_dict()
    keys = []
    for world_size, workers, batch_size, steps in ((2, 0, 2, 1), (1, 2, 3, 2), (3, 1, 1, 2)):
        states = []
        for rank in range(world_size):
            with make(shards, rank=rank, world_size=world_size, workers=workers,
                      batch_size=batch_size) as loader:  # fmt: skip
                loader.load_state_dict(place)
                for _, batch in zip(range(steps), loader, strict=False):
                    keys += batch.keys
                    states.append((len(keys), loader.state_dict()))
        place = states[-1][1]
    assert len(keys) == len(set(keys)) == 4 + 6 + 6


def test_an_iterator_left_early_is_gone_on_with(shards):
    with make(shards, workers=2, batch_size=2) as loader:
        first = next(iter(loader)).keys
        rest = [key for batch in loader for key in batch.keys]
    assert len(set(first + rest)) == 16


def test_batches_that_are_kept_stay_as_they_were(shards):
    with make(shards, workers=2, batch_size=1) as loader:
        kept = [(batch, batch.views[0].clone()) for batch in loader]
        kept += [(batch, batch.views[0].clone()) for batch in loader]
        for batch, copy in kept:
            assert torch.equal(batch.views[0], copy)
    assert torch.equal(kept[0][0].views[0], kept[0][1])  # also after close


def test_a_view_of_the_whole_patch_is_the_member_as_stored(shards):
    whole = MoCoViews(
        size=264, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip_probability=0.0,
        jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0,
    )  # fmt: skip
    index = Index.from_parquet((shards / "index.parquet").read_bytes(), url="")
    for batch in make(shards, views=whole, batch_size=8):
        for i, key in enumerate(batch.keys):
            row = int(np.flatnonzero(index.ids == int(key))[0])
            at = index.first_date[row] + int(batch.dates[i, 0])
            tar = (shards / f"s2c-{index.shards[row]:06d}.tar").read_bytes()
            member = tar[index.offsets[at] : index.offsets[at] + index.lengths[at]]
            red = decode_sample(member, read_pages(member, name=key)[0], 2, name=key)
            assert np.array_equal(batch.views[0][i, 3].numpy(), red)


def test_streams_from_s3(s3, shards, monkeypatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    url = s3.upload(shards, "sample/s2c")
    local = epoch_of(make(shards))
    assert same(epoch_of(make(url)), local)
    with make(url, workers=2) as loader, make(shards, workers=2) as other:
        assert same(epoch_of(loader), epoch_of(other))


def test_s3_settings_may_be_given_as_options(s3, shards):
    url = s3.upload(shards, "options/s2c")
    names = {"AWS_ENDPOINT_URL": "endpoint", "AWS_ACCESS_KEY_ID": "access_key_id",
             "AWS_SECRET_ACCESS_KEY": "secret_access_key", "AWS_REGION": "region"}  # fmt: skip
    options = {names[k]: v for k, v in s3.environment().items() if k in names}
    assert same(epoch_of(make(url, storage_options=options)), epoch_of(make(shards)))


def test_streams_over_http_through_faults(http, shards):
    local = epoch_of(make(shards))
    loader = make(http.url)
    http.unavailable, http.cut = 2, 3
    assert same(epoch_of(loader), local)
    assert http.unavailable == 0
    assert http.cut < 3


def test_only_the_index_and_the_members_wanted_are_read(shards):
    fixed = MoCoViews(size=32, season="fixed")
    loader = make(shards, views=fixed, batch_size=16)
    for _ in loader:
        pass
    stats = loader.stats()
    index = Index.from_parquet((shards / "index.parquet").read_bytes(), url="")
    first = index.lengths[index.first_date[:-1]]
    assert stats["bytes_per_sample"] == pytest.approx(first.mean())
    assert stats["samples_per_second"] > 0
    assert 0 <= stats["wait_share"] <= 1
    assert {"share_fetch", "share_decode", "share_resize"} <= set(stats)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_member_names_itself(shards, tmp_path, workers):
    for path in shards.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tar = tmp_path / "s2c-000001.tar"
    index = Index.from_parquet((shards / "index.parquet").read_bytes(), url="")
    row = int(np.flatnonzero(index.shards == 1)[2])
    data = bytearray(tar.read_bytes())
    data[int(index.offsets[index.first_date[row]]) + 1000] ^= 1
    tar.write_bytes(data)
    loader = make(tmp_path, workers=workers, batch_size=16, views=MoCoViews(size=8, season="fixed"))
    key = f"{index.ids[row]:07d}"
    with pytest.raises(ShardError, match=rf"s2c-000001\.tar: member {key}\.t0\.tif.*verify"):
        list(loader)
    loader.close()


def test_a_cut_or_missing_shard_names_itself(shards, tmp_path):
    for path in shards.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tar = tmp_path / "s2c-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-200_000])
    with pytest.raises(StorageError, match=r"s2c-000001\.tar"):
        list(make(tmp_path, batch_size=16))
    tar.unlink()
    with pytest.raises(StorageError, match=r"s2c-000001\.tar"):
        list(make(tmp_path, batch_size=16))


def test_what_is_no_data_set_says_so(shards, tmp_path):
    with pytest.raises(StorageError, match="Cannot open"):
        make(tmp_path / "nowhere")
    with pytest.raises(StorageError, match=r"manifest\.json"):
        make(tmp_path)
    (tmp_path / "manifest.json").write_bytes((shards / "manifest.json").read_bytes())
    (tmp_path / "index.parquet").write_bytes(b"PAR1 something else PAR1")
    with pytest.raises(ShardError, match=r"index\.parquet"):
        make(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ShardError, match="not a manifest"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 17}, "16 samples, fewer than one global batch"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"rank": 0}, "given together"),
        ({"rank": 2, "world_size": 2}, "rank 2"),
        ({"seed": 1 << 32}, "seed is 4294967296"),
    ],
)
def test_arguments_that_do_not_fit(shards, changes, message):
    with pytest.raises(ValueError, match=message):
        make(shards, **changes)


def test_a_state_of_something_else_is_refused(shards):
    state = make(shards).state_dict()
    with pytest.raises(CheckpointError, match="seed 5, this loader 6"):
        make(shards, seed=6).load_state_dict(state)
    with pytest.raises(CheckpointError, match="manifest"):
        make(shards).load_state_dict(state | {"manifest": "0" * 64})


def test_a_killed_worker_is_an_error_and_the_next_iterator_starts_anew(shards):
    with make(shards, workers=2, batch_size=1) as loader:
        iterator = iter(loader)
        next(iterator)
        os.kill(loader.worker_pids[1], signal.SIGKILL)
        with pytest.raises(RuntimeError, match="killed by signal 9"):
            list(iterator)
        assert len(list(loader)) > 10


def test_workers_end_with_their_trainer(shards):
    """A trainer that is killed outright leaves no process behind."""
    script = (
        "import sys, time\n"
        "from ssl4eo_stream import StreamLoader\n"
        "from ssl4eo_stream.augment.views import MoCoViews\n"
        f"loader = StreamLoader({str(shards)!r}, views=MoCoViews(size=32), batch_size=1,\n"
        "                      workers=2)\n"
        "next(iter(loader))\n"  # no main guard: workers do not import the script
        "print(*loader.worker_pids, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their trainer"
        time.sleep(0.05)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_do_not_import_torch():
    code = (
        "import sys, ssl4eo_stream.stream.worker, ssl4eo_stream.augment.views\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'rasterio', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_secret_in_an_error(shards):
    with http_server(shards) as server:
        url = server.url.replace("://", "://user:hunter2@") + "/nowhere"
        with pytest.raises(StorageError) as caught:
            make(url)
    assert "hunter2" not in str(caught.value)
