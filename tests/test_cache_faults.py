"""The node's cache where things go wrong: damage, dead and stopped mates, full disks, folders."""

import logging
import os
import resource
import shutil
import subprocess

import numpy as np
import pytest
from cache_process import BLOCK, caches, reader, write_objects

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream import cache as cache_module
from ssl4eo_stream.stream import locks
from ssl4eo_stream.stream.cache import Cache
from ssl4eo_stream.stream.slot_files import HEADER


@pytest.fixture
def store(tmp_path):
    return Store.open(write_objects(tmp_path / "data"))


@pytest.fixture
def opened(tmp_path):
    with caches(tmp_path / "cache") as open_:
        yield open_


def damage_bytes(blocks, _):
    data = bytearray(blocks.read_bytes())
    data[5 * BLOCK + 7] ^= 1
    blocks.write_bytes(data)


def swap_blocks(blocks, files):
    data = blocks.read_bytes()
    blocks.write_bytes(data[BLOCK : 2 * BLOCK] + data[:BLOCK] + data[2 * BLOCK :])
    files.crc[[0, 1]] = files.crc[[1, 0]]


def truncate(blocks, _):
    os.truncate(blocks, 15 * BLOCK)


@pytest.mark.parametrize(("hurt", "lost"), [(damage_bytes, 1), (swap_blocks, 2), (truncate, 1)])
def test_a_damaged_block_is_fetched_again(tmp_path, store, opened, caplog, hurt, lost):
    cache = opened()
    read = reader(store, cache)
    read(0)
    hurt(tmp_path / "cache" / "blocks", cache._slots._files)
    with caplog.at_level(logging.WARNING):
        assert read(0) == (16 - lost, lost)
    assert caplog.text.count("0.tar is damaged") == lost
    assert read(0) == (16, 0)


@pytest.mark.parametrize("seed", range(8))
def test_no_state_of_the_table_gives_wrong_bytes(store, opened, monkeypatch, seed):
    """What a dying machine, or a bug, may have left: any words in any column."""
    monkeypatch.setattr(cache_module, "WAIT_SECONDS", 0.02)
    cache = opened(12)
    read = reader(store, cache)
    rng = np.random.default_rng(seed)
    for _ in range(10):
        read(0)
        for column in ("used", "identity", "block", "crc", "owner"):
            array = getattr(cache._slots._files, column)
            chosen = rng.random(12) < 0.2
            array[chosen] = rng.choice([*array, 0, 1, 7, 15, 99], chosen.sum()).astype(array.dtype)
        read(1)


def test_a_failed_fetch_leaves_no_reservation(tmp_path, store, opened):
    cache = opened()
    read = reader(store, cache)
    read(0, 0, 1)
    cache.forget(store, "0.tar", start=0, end=1)
    read(1, 0, 1)
    key = cache._key(store, "0.tar")
    (tmp_path / "data" / "0.tar").rename(tmp_path / "data" / "away")
    with pytest.raises(StorageError, match=r"0\.tar"):
        cache.read_range(store, "0.tar", start=0, end=1000)
    assert not cache._slots._files.owner.any()
    assert not cache._slots.find(key, range(16))


def test_a_stopped_holder_of_the_lock_stops_nobody(tmp_path, store, opened, monkeypatch, caplog):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    read = reader(store, opened())
    read(1)
    with (tmp_path / "cache" / "lock").open() as held:
        assert locks.try_lock(held.fileno())
        assert [read(1), read(0), read(0)] == [(10, 0), (0, 16), (0, 16)]
        with pytest.raises(StorageError, match="lock has been held by another"):
            opened()
    assert caplog.text.count("reads go to storage") == 1
    assert [read(0), read(0)] == [(0, 16), (16, 0)]


def test_a_disk_without_room_only_costs_speed(store, opened, caplog):
    cache = opened()
    read = reader(store, cache)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 * BLOCK, hard))  # writing past it fails: EFBIG
    try:
        assert [read(0), read(0)] == [(0, 16), (6, 10)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.text.count("cannot be written") == 1
    assert [read(0), read(0)] == [(6, 10), (16, 0)]


def test_a_full_disk_only_costs_speed(tmp_path, opened, caplog):
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)]
    if (
        not shutil.which("mount")
        or subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
    ):
        pytest.skip("may not mount a small disk")
    try:
        data = np.random.default_rng(0).bytes(2 << 20)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "0.tar").write_bytes(data)
        store = Store.open(tmp_path / "data")
        cache = opened(64, folder=mount / "cache", block_bytes=65_536)
        assert "bytes too few for the limit" in caplog.text
        for _ in range(2):
            assert cache.read_range(store, "0.tar", start=0, end=2 << 20) == data
        counts = cache.counters.take()
        assert 8 <= counts.hits < 16
        assert caplog.text.count("cannot be written") == 1
        with pytest.raises(StorageError, match="No space left on device"):
            opened(40_000, folder=mount / "second", block_bytes=1)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_folder_that_is_not_a_cache_is_left_alone(tmp_path, opened):
    for names in (["a.txt"], ["blocks"], ["table"], ["lock", "blocks"]):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"x" * 100)
        with pytest.raises(
            StorageError, match=r"is not a cache but holds .*Give a new or an empty"
        ):
            opened(folder=folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)
        assert all(path.read_bytes() == b"x" * 100 for path in folder.iterdir())


def test_another_version_another_limit_in_use_and_no_folder_say_so(tmp_path, opened):
    opened(8)
    with pytest.raises(StorageError, match=r"in use with 8 blocks.*asks for 9 of 64.*same limit"):
        opened(9)
    table = tmp_path / "other" / "table"
    opened(folder=tmp_path / "other")
    with table.open("r+b") as file:
        file.write(HEADER.pack(b"ssl4eo-cache", 2, BLOCK, 16))
    with pytest.raises(StorageError, match="has format 2, this program has 1"):
        opened(folder=tmp_path / "other")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        StorageError, match=r"Cannot keep a cache in .*Give a folder on a local disk"
    ):
        opened(folder=tmp_path / "file")
    with pytest.raises(ValueError, match="Give a larger limit"):
        Cache.open(tmp_path / "tiny", limit_bytes=63)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_unwritable_folder_says_so(tmp_path, opened):
    (tmp_path / "mine").mkdir(mode=0o755)
    os.seteuid(65_534)
    try:
        with pytest.raises(StorageError, match=r"Permission denied.*this user may write"):
            opened(folder=tmp_path / "mine")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("done", range(6))
def test_who_died_while_making_a_cache_left_one_that_opens(tmp_path, store, opened, done):
    folder = tmp_path / "cache"
    steps = [
        folder.mkdir,
        (folder / "lock").touch,
        (folder / "table").touch,
        lambda: (folder / "table").write_bytes(HEADER.pack(b"ssl4eo-cache", 1, BLOCK, 0)),
        (folder / "blocks").touch,
        lambda: os.truncate(folder / "table", 100),
    ]
    for step in steps[: done + 1]:
        step()
    read = reader(store, opened())
    assert [read(0), read(0)] == [(0, 16), (16, 0)]
