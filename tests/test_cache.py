"""The node's cache: the bytes of the store, within its limit, the least recently used go first."""

import dataclasses
import shutil
import subprocess
import sys
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cache_process import BLOCK, SIZES, caches, content, limit_for, reader, size_of, write_objects
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from servers import http_server

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream import cache as cache_module
from ssl4eo_stream.stream.cache import Cache, CacheCounts


@pytest.fixture
def store(tmp_path):
    return Store.open(write_objects(tmp_path / "data"))


@pytest.fixture
def opened(tmp_path):
    with caches(tmp_path / "cache") as open_:
        yield open_


@st.composite
def places(draw):
    """An object's number and a range in it."""
    number = draw(st.integers(0, len(SIZES) - 1))
    start = draw(st.integers(0, SIZES[number] - 1))
    return number, start, draw(st.integers(start + 1, SIZES[number]))


class Model(RuleBasedStateMachine):
    """Any reads, damage and changes of the limit, beside an ordered dictionary."""

    @initialize(slots=st.integers(0, 12))
    def begin(self, slots):
        self.folder = Path(self.tmp.mktemp("model"))
        self.store = Store.open(write_objects(self.folder / "data"))
        self.blocks, self.slots, self.cache = OrderedDict(), slots, None
        self.reopen()

    def reopen(self):
        if self.cache:
            self.cache.close()
        self.cache = Cache.open(
            self.folder / "cache", limit_bytes=limit_for(self.slots), block_bytes=BLOCK
        )

    @rule(place=places())
    def read(self, place):
        number, start, end = place
        data = self.cache.read_range(self.store, f"{number}.tar", start=start, end=end)
        assert data == content(number, SIZES[number])[start:end]
        wanted = [(number, at) for at in range(start // BLOCK, -(-end // BLOCK))]
        wanted = wanted if self.slots else []
        hits = [block for block in wanted if block in self.blocks]
        misses = [block for block in wanted if block not in self.blocks]
        for block in hits:
            self.blocks.move_to_end(block)
        room = self.slots - len(self.blocks)
        evictions = max(0, min(len(misses), self.slots) - room)
        for _ in range(evictions):
            self.blocks.popitem(last=False)
        self.blocks.update(dict.fromkeys(misses[: self.slots]))
        assert self.cache.counters.take() == CacheCounts(
            hits=len(hits),
            misses=len(misses),
            bytes=sum(min(end, (at + 1) * BLOCK) - max(start, at * BLOCK) for _, at in hits),
            evictions=evictions,
        )

    @rule(place=places())
    def forget(self, place):
        number, start, end = place
        known = f"{self.store.url}/{number}.tar" in self.cache._keys
        self.cache.forget(self.store, f"{number}.tar", start=start, end=end)
        for at in range(start // BLOCK, -(-end // BLOCK)) if known else ():
            self.blocks.pop((number, at), None)

    @rule(slots=st.integers(0, 12))
    def resize(self, slots):
        kept = min(slots, self.slots)
        files = self.cache._slots._files
        here = set(zip(files.identity[:kept], files.block[:kept], strict=True))
        keys = [self.cache._keys.get(f"{self.store.url}/{i}.tar") for i in range(len(SIZES))]
        for number, at in list(self.blocks):
            key = keys[number] or self.cache._key(self.store, f"{number}.tar")
            if (key.identity, at) not in here:
                del self.blocks[number, at]
        self.slots = slots
        self.reopen()

    def teardown(self):
        self.cache.close()
        shutil.rmtree(self.folder)

    @invariant()
    def within_limit(self):
        assert size_of(self.folder / "cache") <= limit_for(self.slots)


def test_reads_as_a_least_recently_used_cache_would(tmp_path_factory):
    Model.tmp = tmp_path_factory
    machine = Model.TestCase
    machine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
    machine().runTest()


@pytest.mark.parametrize("over", ["file", "http"])
def test_gives_the_bytes_and_the_errors_of_the_store(tmp_path, store, opened, over):
    with http_server(tmp_path / "data") as server:
        if over == "http":
            store = Store.open(server.url)
        cache = opened()
        read = reader(store, cache)
        assert read(0, 3, 999) == (0, 16)
        assert read(0, 0, 1000) == (16, 0)
        assert read(3, 0, 1) == (0, 1)
        assert cache.read_range(store, "0.tar", start=5, end=9).readonly
        for path, start, end in [("0.tar", 990, 1001), ("9.tar", 0, 5)]:
            with pytest.raises(StorageError) as plain:
                store.read_range(path, start=start, end=end)
            with pytest.raises(StorageError) as cached:
                cache.read_range(store, path, start=start, end=end)
            assert str(cached.value) == str(plain.value)


def test_another_process_finds_what_one_has_fetched(tmp_path, store, opened):
    assert reader(store, opened())() == (0, 16)
    assert reader(store, opened())() == (16, 0)
    code = (
        "import sys; from ssl4eo_stream.store import Store; "
        "from ssl4eo_stream.stream.cache import Cache\n"
        "data, folder, limit = sys.argv[1:]\n"
        f"cache = Cache.open(folder, limit_bytes=int(limit), block_bytes={BLOCK})\n"
        "cache.read_range(Store.open(data), '0.tar', start=0, end=1000)\n"
        "counts = cache.counters.take(); assert (counts.hits, counts.misses) == (16, 0), counts\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "data", tmp_path / "cache", limit_for(16)]
    subprocess.run(list(map(str, command)), check=True)


def test_a_new_version_of_an_object_is_fetched(tmp_path, store, opened):
    cache = opened()
    read = reader(store, cache)
    read(0)
    (tmp_path / "data" / "0.tar").write_bytes(bytes(SIZES[0]))
    assert cache.read_range(store, "0.tar", start=0, end=9) == content(0, 9)  # as it was known
    cache.forget(store, "0.tar", start=500, end=501)  # its bytes were bad: ask again
    assert cache.read_range(store, "0.tar", start=0, end=9) == bytes(9)


class Slow(Store):
    """A store whose reads wait to be let go on."""

    asked, go_on, count = threading.Event(), threading.Event(), 0

    def read_range(self, path, *, start, end):
        Slow.count += 1
        self.asked.set()
        assert self.go_on.wait(60)
        return super().read_range(path, start=start, end=end)


@pytest.mark.parametrize("patience", ["enough", "not enough"])
def test_who_wants_what_is_being_fetched_waits_a_while(
    tmp_path, store, opened, monkeypatch, patience
):
    Slow.asked, Slow.go_on, Slow.count = threading.Event(), threading.Event(), 0
    first, second = opened(), opened()
    fetching = threading.Thread(target=reader(Slow.open(tmp_path / "data"), first))
    fetching.start()
    assert Slow.asked.wait(60)
    if patience == "enough":
        threading.Timer(0.2, Slow.go_on.set).start()
        assert reader(Slow.open(tmp_path / "data"), second)() == (16, 0)
    else:
        monkeypatch.setattr(cache_module, "WAIT_SECONDS", 0.1)
        assert reader(store, second)() == (0, 16)
        Slow.go_on.set()
    fetching.join()
    assert Slow.count == 1
    assert reader(store, second)() == (16, 0)


class Unversioned(Store):
    """A store that cannot tell one version of an object from the next."""

    def head(self, path):
        return dataclasses.replace(super().head(path), etag="")


class NoHead(BaseHTTPRequestHandler):
    """A server of ranges of `0.tar` that answers no HEAD."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_error(405)

    def do_GET(self):
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{SIZES[0]}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(content(0, SIZES[0])[first : last + 1])


def test_objects_without_a_version_are_read_through(tmp_path, opened, caplog):
    read = reader(Unversioned.open(write_objects(tmp_path / "data")), opened())
    assert [read(0), read(0), read(1)] == [(0, 0)] * 3
    assert caplog.text.count("it gives no ETags") == 1
    with ThreadingHTTPServer(("127.0.0.1", 0), NoHead) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            read = reader(Store.open(f"http://127.0.0.1:{server.server_port}"), opened())
            assert [read(0), read(0, 3, 5)] == [(0, 0)] * 2
        finally:
            server.shutdown()
    assert caplog.text.count("is cached without ETags") == 1
