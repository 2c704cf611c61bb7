"""The door to bytes: ranges, what is worth one request, and messages that help."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import http_server

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.retry import Counts
from ssl4eo_stream.store import Store, as_url, coalesce


def _laid_out(steps):
    spans, at = [], 0
    for gap, length in steps:
        spans.append((at + gap, at + gap + length))
        at += gap + length
    return spans


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=30).map(
    _laid_out
)


@given(spans=spans, gap=st.integers(0, 60), limit=st.integers(1, 300))
def test_coalescing_loses_nothing_and_reads_no_wide_gap(spans, gap, limit):
    ranges = coalesce(spans, gap_bytes=gap, limit_bytes=limit)
    holders = [next(r for r in ranges if r[0] <= start and end <= r[1]) for start, end in spans]
    assert sorted(set(holders)) == ranges
    for low, high in ranges:
        inside = [span for span in spans if low <= span[0] and span[1] <= high]
        assert (inside[0][0], inside[-1][1]) == (low, high)
        assert high - low <= limit or len(inside) == 1
        assert all(b[0] - a[1] <= gap for a, b in itertools.pairwise(inside))
    for one, other in itertools.pairwise(ranges):
        first = next(span for span in spans if span[0] == other[0])
        assert other[0] - one[1] > gap or first[1] - one[0] > limit


@pytest.mark.parametrize("over", ["file", "http"])
def test_reads_whole_objects_and_ranges(tmp_path, over):
    data = bytes(range(256)) * 20
    (tmp_path / "a.bin").write_bytes(data)
    with http_server(tmp_path) as server:
        store = Store.open(tmp_path if over == "file" else server.url)
        assert store.is_local == (over == "file")
        assert store.read("a.bin") == data
        assert store.read_range("a.bin", start=300, end=777) == data[300:777]
        with pytest.raises(StorageError, match=r"a\.bin.*ends 5 bytes early"):
            store.read_range("a.bin", start=5000, end=len(data) + 5)
        with pytest.raises(StorageError, match=r"b\.bin.*Check the URL"):
            store.read("b.bin")


def test_paths_become_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_url("s3://bucket/x/") == "s3://bucket/x"
    assert as_url("shards") == (tmp_path / "shards").as_uri()
    spaced = tmp_path / "with space"
    spaced.mkdir()
    (spaced / "x").write_bytes(b"1")
    assert Store.open(spaced).read("x") == b"1"


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(StorageError, match=r"nowhere: there is no such folder"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="storage_options have no meaning"):
        Store.open(tmp_path, options={"region": "x"})
    with pytest.raises(StorageError, match="Cannot open ftp://host/x"):
        Store.open("ftp://user:secret@host/x")


@pytest.mark.parametrize("over", ["file", "http"])
def test_what_was_asked_is_counted_and_objects_are_described(tmp_path, over):
    data = bytes(range(256)) * 20
    (tmp_path / "a.bin").write_bytes(data)
    with http_server(tmp_path) as server:
        store = Store.open(tmp_path if over == "file" else server.url)
        store.read("a.bin")
        store.read_range("a.bin", start=10, end=30)
        assert store.read_range("a.bin", start=7, end=7) == b""
        assert store.counters.take() == Counts(requests=2, retries=0, bytes=len(data) + 20)
        first, again = store.head("a.bin"), store.head("a.bin")
        assert store.counters.take() == Counts(requests=2, retries=0, bytes=0)
        assert first == again
        assert first.size == len(data)
        (tmp_path / "a.bin").write_bytes(data[:-1])
        assert store.head("a.bin").etag != first.etag
        (tmp_path / "empty").touch()
        assert store.read("empty") == b""
        with pytest.raises(StorageError, match=r"b\.bin"):
            store.head("b.bin")


def test_threads_share_a_store(tmp_path):
    data = bytes(range(251)) * 1000
    (tmp_path / "a.bin").write_bytes(data)
    with http_server(tmp_path) as server, ThreadPoolExecutor(8) as pool:
        server.cut = 20
        store = Store.open(server.url)
        starts = range(0, 200_000, 5000)
        read = pool.map(lambda at: store.read_range("a.bin", start=at, end=at + 30_000), starts)
        for start, found in zip(starts, read, strict=True):
            assert found == data[start : start + 30_000]
        counts = store.counters.take()
    assert counts == Counts(requests=60, retries=20, bytes=40 * 30_000)
