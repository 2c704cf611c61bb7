"""Shards without an index: everything is shown, as `StreamLoader` and webdataset see it."""

import gc
import logging
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from trees import members_of, write_tar, write_tree

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.errors import CheckpointError, ShardError, StorageError
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.stream.decode import Decoder
from ssl4eo_stream.stream.foreign import WholeShardLoader
from ssl4eo_stream.stream.whole import turns

NUM_SHARDS, PER_SHARD = 5, 4


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Sentinel-1 shards of four locations without index or manifest, and the same with them."""
    root = tmp_path_factory.mktemp("foreign")
    write_tree(root / "tree", "s1", range(NUM_SHARDS * PER_SHARD), dates=2)
    build(root / "tree", root / "s1", product="s1", codec="jpeg:90", samples_per_shard=PER_SHARD)
    (root / "tars").mkdir()
    for tar in (root / "s1").glob("*.tar"):
        shutil.copy(tar, root / "tars")
    return root / "tars", root / "s1"


def make(url, **options):
    settings = {"views": MoCoViews(size=24), "batch_size": 2, "seed": 3}
    return WholeShardLoader(str(url), **settings | options)


def keys(batches):
    return [key for batch in batches for key in batch.keys]


def views_by_key(loader):
    """Key -> its views and the dates they show, over one epoch."""
    return {
        key: (*(view[i].clone() for view in batch.views), batch.dates[i].clone())
        for batch in loader
        for i, key in enumerate(batch.keys)
    }


def test_every_location_is_seen_once_with_the_views_of_the_indexed_stream(tars):
    ours, theirs = (
        make(tars[0]),
        StreamLoader(str(tars[1]), views=MoCoViews(size=24), batch_size=2, seed=3),
    )
    assert (ours.channels, ours.manifests[0].product) == (2, "s1")
    for epoch in range(2):
        assert ours.epoch == theirs.epoch == epoch
        found, expected = views_by_key(ours), views_by_key(theirs)
        assert len(found) == NUM_SHARDS * PER_SHARD
        assert found.keys() == expected.keys()
        for key, arrays in found.items():
            assert all(map(torch.equal, arrays, expected[key]))


class Native:
    """Shows every pixel of date 0 as it is decoded."""

    num_views = 1

    def shapes(self, num_channels):
        return ((num_channels, 264, 264),)

    def dates(self, num_dates, *, rng):  # noqa: ARG002
        return (0,)

    def render(self, planes, *, view, rng, out, lap):  # noqa: ARG002
        np.stack(planes, out=out)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the gc
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_same_keys_and_pixels_from_the_same_tars(tars):
    manifest = Manifest.from_json((tars[1] / "manifest.json").read_bytes(), url="x")
    decoder = Decoder(manifest)
    urls = [str(path) for path in sorted(tars[0].glob("*.tar"))]
    expected = {
        sample["__key__"]: np.stack(decoder(sample["t0.tif"], name="x"))
        for sample in webdataset.WebDataset(urls, shardshuffle=False)
    }
    gc.collect()
    found = {
        key: batch.views[0][i].numpy()
        for batch in make(f"{tars[0]}/s1-{{000000..000004}}.tar", views=Native())
        for i, key in enumerate(batch.keys)
    }
    assert found.keys() == expected.keys()
    for key, pixels in found.items():
        np.testing.assert_array_equal(pixels, expected[key])


def test_shards_come_whole_in_another_order_each_epoch_and_the_same_for_a_seed(tars):
    loader = make(tars[0])
    epochs = [keys(loader) for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    for epoch in epochs:
        shards = [int(key) // PER_SHARD for key in epoch]
        assert shards == [each for each in dict.fromkeys(shards) for _ in range(PER_SHARD)]
    again = make(tars[0])
    again.epoch = 2
    assert keys(again) == epochs[2]
    assert keys(make(tars[0], seed=4)) != epochs[0]
    assert epochs[0] != sorted(epochs[0])


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_shards_are_dealt_out_whole_in_every_lap(num_shards, consumers, seed, epoch):
    laps = 3
    seen = Counter()
    for consumer in range(consumers):
        how = {"consumer": consumer, "consumers": consumers, "seed": seed, "epoch": epoch}
        once = list(turns(num_shards, forever=False, **how))
        assert {turn.lap for turn in once} <= {0}
        assert len(once) in (num_shards // consumers, -(-num_shards // consumers))
        ever = list(islice(turns(num_shards, forever=True, **how), laps * len(once)))
        assert ever[: len(once)] == once
        for lap in range(laps):
            own = [turn.shard for turn in ever if turn.lap == lap]
            assert sorted(own) == sorted(turn.shard for turn in once)
            seen.update((lap, shard) for shard in own)
    assert seen == Counter({(lap, shard): 1 for lap in range(laps) for shard in range(num_shards)})


def test_ranks_share_the_shards_and_take_equal_steps(tars):
    steps = NUM_SHARDS * PER_SHARD // 2 + 3
    loaders = [make(tars[0], steps_per_epoch=steps, rank=rank, world_size=2) for rank in range(2)]
    seen = [keys(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [steps, steps]
    assert [len(each) for each in seen] == [2 * steps, 2 * steps]
    assert not set(seen[0]) & set(seen[1])
    assert len({*seen[0], *seen[1]}) == NUM_SHARDS * PER_SHARD


def test_a_location_that_returns_within_an_epoch_has_other_views(tars):
    views = {}
    for batch in make(tars[0], steps_per_epoch=NUM_SHARDS * PER_SHARD):
        for i, key in enumerate(batch.keys):
            views.setdefault(key, []).append(batch.views[0][i].clone())
    assert {len(each) for each in views.values()} == {2}
    assert not any(torch.equal(*each) for each in views.values())


@pytest.mark.slow
def test_workers_give_the_same_batches_of_their_shards_over_epochs(tars):
    """The workers' batches in turn are those of as many ranks without workers."""
    loader = make(tars[0], workers=2, steps_per_epoch=5)
    ranks = [make(tars[0], steps_per_epoch=3, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(2):
        batches = list(loader)
        alone = [list(rank) for rank in ranks]
        assert len(batches) == 5
        for step, batch in enumerate(batches):
            expected = alone[step % 2][step // 2]
            assert batch.keys == expected.keys
            assert all(map(torch.equal, batch.views, expected.views))
            assert torch.equal(batch.dates, expected.dates)
    stats = loader.stats()
    assert stats["samples_per_second"] > 0
    assert {"share_decode", "share_fetch", "wait_share", "retries"} <= stats.keys()
    assert stats["bytes_per_sample"] > 1000


SCRIPT = """
import sys
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.stream.foreign import WholeShardLoader
if __name__ == "__main__":
    loader = WholeShardLoader(sys.argv[1], views=MoCoViews(size=24), batch_size=3, workers=2)
    print(sorted(key for batch in loader for key in batch.keys))
    next(iter(loader))
"""


@pytest.mark.slow
def test_a_script_with_workers_ends_without_a_word(tars, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", script, tars[0]], capture_output=True, text=True, check=True
    )
    seen = re.findall(r"\d{7}", done.stdout)
    assert len(seen) == len(set(seen)) >= NUM_SHARDS * PER_SHARD - 2 * 2  # less than a batch each
    assert [line for line in done.stderr.splitlines() if "has no index" not in line] == []


def test_what_is_left_of_an_epoch_is_given_up(tars):
    loader = make(tars[0])
    first = next(iter(loader)).keys
    assert loader.epoch == 1
    assert keys(loader)[:2] != first


def test_it_says_once_what_it_cannot_do(tars, caplog):
    with caplog.at_level(logging.WARNING):
        loader = make(tars[0])
        list(loader)
        make(tars[0], rank=1, world_size=2, steps_per_epoch=1)
    assert caplog.text.count("has no index") == 1
    assert "ssl4eo-shard index" in caplog.text
    for call in (loader.state_dict, lambda: loader.load_state_dict({})):
        with pytest.raises(CheckpointError, match="no place in it to save or resume at"):
            call()
    with pytest.raises(TypeError, match="no length is known"):
        len(loader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 6}, "5 shards are fewer than 1 ranks × 6 workers"),
        ({"workers": 2, "rank": 0, "world_size": 3, "steps_per_epoch": 1}, "3 ranks × 2 workers"),
        ({"rank": 0, "world_size": 2}, "2 ranks need steps_per_epoch"),
        ({"rank": 0}, "given together"),
        ({"rank": 2, "world_size": 2, "steps_per_epoch": 1}, "rank 2 is not within a world of 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0"),
    ],
)
def test_arguments_that_do_not_fit_say_so(tars, options, message):
    with pytest.raises(ValueError, match=message):
        make(tars[0], **options)


def test_shards_that_cannot_be_shown_are_named(tars, tmp_path):
    with pytest.raises(ShardError, match="no worker's shards hold a whole batch of 21"):
        list(make(tars[0], batch_size=21))
    with pytest.raises(StorageError, match="no such folder"):
        make(tmp_path / "nowhere")
    for tar in tars[0].glob("*.tar"):
        shutil.copy(tar, tmp_path)
    path = tmp_path / "s1-000003.tar"
    members = members_of(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"s1-000003\.tar is no tar, or cut"):
        list(make(tmp_path))
    name = "0000013.t1.tif"
    broken = members[name][: len(members[name]) // 2]
    write_tar(path, members | {name: broken})
    with pytest.raises(ShardError, match=r"0000013 can't be shown: .*s1-000003\.tar: member .*t1"):
        list(make(tmp_path, steps_per_epoch=200))  # until that date is drawn
    write_tree(tmp_path / "tree", "s2a", [1], dates=1)
    build(tmp_path / "tree", tmp_path / "s2a", product="s2a")
    shutil.copy(tmp_path / "s2a" / "s2a-000000.tar", path)
    with pytest.raises(ShardError, match=r"s1-000003\.tar holds uint8 s2a of pages .*other shards"):
        list(make(tmp_path))
    write_tar(path, {"README": b"nothing"})
    with pytest.raises(ShardError, match=r"s1-000003\.tar holds no GeoTIFF"):
        list(make(tmp_path))


def test_it_streams_from_a_bucket(s3, tars, monkeypatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    loader = make(s3.upload(tars[0], "foreign/s1"))
    assert keys(loader) == keys(make(tars[0]))
    assert loader.url == "s3://ssl4eo/foreign/s1"
