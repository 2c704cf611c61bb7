"""Samples that cannot be had: replaced by others of their block, listed, and within a budget."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from ssl4eo_stream import Reading, StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.errors import ShardError, StorageError
from ssl4eo_stream.shard.manifest import Index

VIEWS = MoCoViews(size=16, season="fixed")


@pytest.fixture
def damaged(shards, tmp_path):
    """A copy of the shards, and a function that flips a bit in a location's first date."""
    folder = tmp_path / "s2c"
    shutil.copytree(shards, folder)
    index = Index.from_parquet((folder / "index.parquet").read_bytes(), url="")

    def damage(location):
        row = int(np.flatnonzero(index.ids == location)[0])
        tar = folder / f"s2c-{index.shards[row]:06d}.tar"
        data = bytearray(tar.read_bytes())
        data[int(index.offsets[index.first_date[row]]) + 2000] ^= 1
        tar.write_bytes(data)

    return folder, damage


def loader(folder, **changes):
    reading = {"on_error": "replace", "replace_budget": 0.5} | changes.pop("reading", {})
    arguments = {"views": VIEWS, "batch_size": 4, "seed": 3} | changes
    return StreamLoader(str(folder), reading=Reading(**reading), **arguments)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("bad", [[5], [0, 1, 2, 14, 15]])
def test_a_damaged_sample_is_replaced_and_listed(damaged, tmp_path, workers, bad):
    folder, damage = damaged
    for location in bad:
        damage(location)
    quarantine = tmp_path / "lists" / "quarantine.jsonl"
    with loader(folder, workers=workers, reading={"quarantine": quarantine}) as stream:
        keys = [key for batch in stream for key in batch.keys]
        assert stream.stats()["replaced"] == len(bad)
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert sorted(int(line["id"]) for line in lines) == bad
    assert all("CRC-32C" in line["reason"] for line in lines)
    expected = Counter(f"{i:07d}" for i in range(16) if i not in bad)
    expected.update(line["replaced_by"] for line in lines)
    assert Counter(keys) == expected
    assert all("s2c-00000" in line["reason"] and line["epoch"] == 0 for line in lines)


def test_the_same_run_replaces_the_same(damaged):
    folder, damage = damaged
    for location in (2, 7, 11):
        damage(location)
    runs = []
    for _ in range(2):
        with loader(folder) as stream:
            runs.append([(batch.keys, batch.views[0].sum().item()) for batch in stream])
    assert runs[0] == runs[1]


def test_a_stand_in_is_seen_with_views_of_its_own(damaged):
    """Two samples of one place in a batch must not be the same picture."""
    folder, damage = damaged
    damage(5)
    with loader(folder, batch_size=16) as stream:
        (batch,) = list(stream)
    (twice,) = [key for key, count in Counter(batch.keys).items() if count == 2]
    first, second = (i for i, key in enumerate(batch.keys) if key == twice)
    assert not np.array_equal(batch.views[0][first].numpy(), batch.views[0][second].numpy())


@pytest.mark.parametrize("workers", [0, 1])
def test_steps_stay_equal_when_a_whole_shard_is_gone(damaged, workers):
    folder, _ = damaged
    (folder / "s2c-000001.tar").unlink()
    steps = []
    for rank in range(2):
        with loader(folder, rank=rank, world_size=2, batch_size=2, workers=workers,
                    reading={"replace_budget": 1.0}) as stream:  # fmt: skip
            keys = [key for batch in stream for key in batch.keys]
            steps.append(len(keys))
            assert all(int(key) < 8 for key in keys)
    assert steps == [8, 8]


def test_the_budget_ends_it(damaged, tmp_path):
    folder, damage = damaged
    for location in range(5):
        damage(location)
    quarantine = tmp_path / "quarantine.jsonl"
    with (
        loader(folder, reading={"replace_budget": 0.25, "quarantine": quarantine}) as stream,
        pytest.raises(ShardError, match=r"of the 16 samples of epoch 0.*25\.00%.*quarantine"),
    ):
        list(stream)
    assert len(quarantine.read_text().splitlines()) >= 5


def test_nothing_good_left_is_an_error(damaged):
    folder, damage = damaged
    for location in range(16):
        damage(location)
    with (
        loader(folder, reading={"replace_budget": 1.0}) as stream,
        pytest.raises(ShardError, match="can stand in"),
    ):
        list(stream)


def test_raise_is_the_default(damaged):
    folder, _ = damaged
    (folder / "s2c-000001.tar").unlink()
    with (
        StreamLoader(str(folder), views=VIEWS, batch_size=4) as stream,
        pytest.raises(StorageError, match=r"s2c-000001\.tar"),
    ):
        list(stream)


@pytest.mark.parametrize(
    ("field", "value"),
    [("replace_budget", 1.5), ("connections", 0), ("prefetch_bytes", 0), ("cache_gigabytes", 0.0)],
)
def test_values_out_of_range(field, value):
    with pytest.raises(ValueError, match=field):
        Reading(**{field: value})
