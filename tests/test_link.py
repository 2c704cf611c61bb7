"""The link that benchmarks measure over: its bandwidth, its latency, and the bytes it serves."""

import urllib.error
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from link import Meter, link
from replicas import linked_tree, replicate

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.store import Store


@given(
    pieces=st.lists(
        st.tuples(st.integers(1, 10_000), st.floats(0, 5)), min_size=1, max_size=20
    ),
    rate=st.floats(100, 1e6),
)  # fmt: skip
def test_a_link_never_carries_more_than_its_bandwidth(pieces, rate):
    """Pieces leave one after the other, at the rate, and none before it was asked for."""
    meter, now, free = Meter(rate), 0.0, 0.0
    for num_bytes, pause in pieces:
        now += pause
        free = max(free, now) + num_bytes / rate
        assert meter.reserve(num_bytes, now=now) == pytest.approx(free - now)


def test_bytes_come_as_they_are(tmp_path):
    data = np.random.default_rng(0).bytes(700_000)
    (tmp_path / "a.tar").write_bytes(data)
    with link(tmp_path, latency_seconds=0.0, bytes_per_second=1e9) as url:
        store = Store.open(url)
        assert store.read("a.tar") == data
        assert bytes(store.read_range("a.tar", start=5, end=600_000)) == data[5:600_000]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/nothing.tar")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/../{tmp_path.name}/a.tar")


def test_replicas_are_a_data_set_that_streams_over_the_link(tmp_path, shards):
    tree = linked_tree(shards.parent / "tree" / "s2c", tmp_path / "linked", locations=4)
    one = tmp_path / "one"
    build(tree, one, product="s2c", codec="jpeg:75", samples_per_shard=4, workers=0)
    many = replicate(one, tmp_path / "many", shards=3)
    views = MoCoViews(size=32)
    with link(many, latency_seconds=0.0) as url, StreamLoader(
        url, views=views, batch_size=4
    ) as remote, StreamLoader(str(many), views=views, batch_size=4) as local:  # fmt: skip
        keys = set()
        for ours, theirs in zip(remote, local, strict=True):
            keys.update(ours.keys)
            assert ours.keys == theirs.keys
            assert all((a == b).all() for a, b in zip(ours.views, theirs.views, strict=True))
        assert keys == {f"{location:07d}" for location in range(12)}
