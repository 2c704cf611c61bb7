"""Many processes fill one cache and die in the middle of it: right bytes, the limit, no leaks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

import cache_process
import pytest
from cache_process import Mate, caches, limit_for, reader, write_objects
from servers import http_server

from ssl4eo_stream.store import Store
from ssl4eo_stream.stream import cache as cache_module

BLOCK = 4096


class Observer(threading.Thread):
    """Adds up a folder's files, over and over."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.most, self.looks, self.stop = folder, 0, 0, threading.Event()

    def run(self):
        while not self.stop.is_set():
            sizes = [path.stat() for path in self.folder.rglob("*") if path.is_file()]
            length = sum(size.st_size for size in sizes)
            on_disk = sum(size.st_blocks * 512 for size in sizes)
            # The file system rounds each file up to whole pages, and notes where they lie.
            self.most = max(self.most, length, on_disk - 5 * 4096)
            self.looks += 1
            time.sleep(0.002)


def run_mates(folder, *, url, slots, objects, object_bytes, mates, kills, rounds):
    """Run mates until each has read everything `rounds` times; return the log's lines."""
    cache = folder / "cache"
    cache.mkdir()
    log = folder / "log"
    log.touch()
    limit_bytes = limit_for(slots, block_bytes=BLOCK)
    observer = Observer(cache)
    observer.start()
    tasks = [
        Mate(
            data=url, log=str(log), cache=str(cache), limit_bytes=limit_bytes, block_bytes=BLOCK,
            objects=objects, object_bytes=object_bytes, rounds=rounds, kills=kills, seed=seed,
        )
        for seed in range(mates)
    ]  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, cache_process.__file__, json.dumps(asdict(task))],
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in tasks
    ]
    try:
        for mate in running:
            _, errors = mate.communicate(timeout=240)
            assert mate.returncode == 0, errors
    finally:
        for mate in running:
            mate.kill()
            mate.communicate()
        observer.stop.set()
        observer.join()
    assert observer.looks > 100
    assert observer.most <= limit_bytes
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("over", "room", "kills"),
    [
        ("file", "for all", 8),
        ("http", "for a third", 5),
        pytest.param("http", "for all", 80, marks=pytest.mark.slow),
        pytest.param("file", "for a third", 80, marks=pytest.mark.slow),
        pytest.param("file", "for hardly any", 80, marks=pytest.mark.slow),
    ],
)
def test_mates_that_are_killed_at_any_moment_do_no_harm(tmp_path, over, room, kills):
    objects, object_bytes = 4, 120 * BLOCK + 1234
    data = write_objects(tmp_path / "data", [object_bytes] * objects)
    total = objects * 121
    slots = {"for all": total, "for a third": total // 3, "for hardly any": 7}[room]
    with http_server(data) as server:
        lines = run_mates(
            tmp_path, url=server.url if over == "http" else data.as_uri(), slots=slots,
            objects=objects, object_bytes=object_bytes, mates=3, kills=kills, rounds=1,
        )  # fmt: skip
    killed = {int(line[1]) for line in lines if line[0] == "kill"}
    fetched = defaultdict(list)
    for line in lines:
        if line[0] == "fetch":
            _, pid, name, start, end = line
            for block in range(int(start) // BLOCK, -(-int(end) // BLOCK)):
                fetched[name, block].append(int(pid))
    assert len(fetched) == total
    assert len(killed & {pid for pids in fetched.values() for pid in pids}) > 4
    if room == "for all":  # nothing is thrown out: fetched once, or its fetcher was killed
        for pids in fetched.values():
            assert sum(pid not in killed for pid in pids) <= 1
        # A reader dies with at most three ranges of six blocks on their way.
        lost = Counter(pid for pids in fetched.values() for pid in pids[:-1])
        assert max(lost.values(), default=0) <= 18
    with caches(tmp_path / "cache") as opened:
        cache = opened(slots, block_bytes=BLOCK)
        files = cache._slots._files
        assert not files.owner.any()
        assert ((files.identity != 0) == (files.used != 0)).all()
        if room == "for all":
            assert (files.identity != 0).all()


def test_a_forked_child_reads_on_and_keeps_no_reservation_of_its_parent(tmp_path):
    data = write_objects(tmp_path / "data")
    code = f"""
import os, time
from pathlib import Path
from ssl4eo_stream.store import Store
from cache_process import caches, reader
store = Store.open({str(data)!r})
with caches(Path({str(tmp_path / "cache")!r})) as opened:
    cache = opened(20)
    read = reader(store, cache)
    read(0)
    key = cache._key(store, "0.tar")  # a child cannot use its parent's store
    cache._slots.claim(cache._key(store, "1.tar"), range(4))
    assert cache._slots._files.owner.any()
    if os.fork():
        time.sleep(60)
        os._exit(0)
    try:
        assert read(0) == (16, 0)
        cache.forget(store, "0.tar", start=0, end=64)
        claim = cache._slots.claim(key, range(1))
        assert len(claim.slots) == 1, claim
        assert cache._slots._owners.mine == 2
        print("child", os.getpid(), flush=True)
        time.sleep(60)
    except BaseException as error:
        print("failed", error.__traceback__.tb_lineno, repr(error), flush=True)
    os._exit(0)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    said = parent.stdout.readline().split()
    try:
        assert said[0] == "child", said
        parent.kill()
        parent.wait()
        with caches(tmp_path / "cache") as opened:
            cache = opened(20)  # takes number 1 of the parent, whose claims are gone
            assert set(cache._slots._files.owner.tolist()) == {0, 2}
            assert reader(Store.open(data), cache)(1) == (0, 10)
    finally:
        parent.kill()
        if said[0] == "child":
            os.kill(int(said[1]), signal.SIGKILL)
        parent.wait()
        parent.stdout.close()


@pytest.mark.parametrize("number", [0, 1], ids=["the same blocks", "others, for want of room"])
def test_what_the_dead_were_filling_is_free(tmp_path, monkeypatch, number):
    store = Store.open(write_objects(tmp_path / "data"))
    code = f"""
import time
from pathlib import Path
from ssl4eo_stream.store import Store
from cache_process import caches
with caches(Path({str(tmp_path / "cache")!r})) as opened:
    cache = opened()
    cache._slots.claim(cache._key(Store.open({str(tmp_path / "data")!r}), "0.tar"), range(16))
    print("claimed", flush=True)
    time.sleep(60)
"""
    with caches(tmp_path / "cache") as opened:
        read = reader(store, opened())
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        ) as mate:  # fmt: skip
            assert mate.stdout.readline() == "claimed\n"
            with monkeypatch.context() as patch:
                patch.setattr(cache_module, "WAIT_SECONDS", 0.05)
                everything = (0, 16 if number == 0 else 10)
                assert [read(number), read(number)] == [everything] * 2  # from the store
            mate.kill()
        assert [read(number), read(number)] == [everything, everything[::-1]]
