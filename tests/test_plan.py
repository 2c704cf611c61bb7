"""The plan: every location once, equal steps, and any place restored on any topology."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl4eo_stream.stream.plan import (
    Generators,
    Position,
    Topology,
    batches_done,
    length,
    num_steps,
    order,
    stream,
    take,
)

topologies = st.builds(
    Topology, world_size=st.integers(1, 8), workers=st.integers(0, 3), batch_size=st.integers(1, 7)
)


def shards_of(locations, per_shard=100):
    return (np.arange(locations) // per_shard).astype(np.int32)


def read(position, canonical, steps):
    """What all ranks see in the next `steps` steps, batch by batch, the slow way."""
    topology, seen = position.topology, []
    for step in range(position.steps, position.steps + steps):
        for rank in range(topology.world_size):
            worker = step % topology.streams
            mine = stream(position.intervals, topology, rank=rank, worker=worker)
            at = [p for start, stop in mine for p in range(start, stop)]
            first = step // topology.streams * topology.batch_size
            batch = at[first : first + topology.batch_size]
            assert len(batch) == topology.batch_size
            seen.extend(canonical.rows[batch].tolist())
    return seen


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("workers", range(4))
def test_every_location_once_an_epoch(world_size, workers):
    topology = Topology(world_size=world_size, workers=workers, batch_size=3)
    canonical = order(shards_of(1000), seed=1, epoch=0)
    place = Position(epoch=0, intervals=((0, 1000),), topology=topology, steps=0)
    steps = num_steps(place.intervals, topology)
    seen = read(place, canonical, steps)
    assert len(seen) == len(set(seen)) == steps * topology.global_batch
    assert 1000 - len(seen) < topology.global_batch


@given(
    locations=st.integers(60, 400),
    per_shard=st.integers(1, 150),
    chunk=st.integers(1, 40),
    block=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_order_permutes_within_blocks_of_whole_chunks(locations, per_shard, chunk, block, seed):
    shards = shards_of(locations, per_shard)
    got = order(shards, seed=seed, epoch=2, chunk_locations=chunk, block_chunks=block)
    assert sorted(got.rows) == list(range(locations))
    assert (np.diff(got.blocks) >= 0).all()
    for number in np.unique(got.chunks):
        rows = np.sort(got.rows[got.chunks == number])
        assert len(set(shards[rows])) == 1
        assert len(rows) <= chunk
        assert (np.diff(rows) == 1).all()
        assert len(set(got.blocks[got.chunks == number])) == 1
    for number in np.unique(got.blocks):
        assert len(np.unique(got.chunks[got.blocks == number])) <= block


def test_order_is_golden():
    got = order(shards_of(12, 6), seed=7, epoch=3, chunk_locations=2, block_chunks=2)
    assert got.rows.tolist() == [1, 3, 0, 2, 8, 5, 4, 9, 7, 11, 10, 6]
    assert order(shards_of(12, 6), seed=7, epoch=4).rows.tolist() != got.rows.tolist()
    assert order(shards_of(12, 6), seed=8, epoch=3).rows.tolist() != got.rows.tolist()


@settings(deadline=None)
@given(
    locations=st.integers(60, 300),
    path=st.lists(st.tuples(topologies, st.integers(0, 20)), min_size=1, max_size=4),
)
def test_any_place_on_any_topology(locations, path):
    """Restored again and again on other topologies, the epoch still shows every location once."""
    canonical = order(shards_of(locations), seed=0, epoch=0)
    place = Position(epoch=0, intervals=((0, locations),), topology=path[0][0], steps=0)
    seen = []
    for topology, wanted in path:
        place = Position.from_dict(json.loads(json.dumps(place.to_dict()))).on(topology)
        steps = min(wanted, num_steps(place.intervals, topology) - place.steps)
        seen += read(place, canonical, steps)
        place = Position(
            epoch=0, intervals=place.intervals, topology=topology, steps=place.steps + steps
        )
    assert len(seen) == len(set(seen))
    left = [canonical.rows[p] for start, stop in place.remaining() for p in range(start, stop)]
    assert sorted(seen + left) == list(range(locations))


@given(
    spans=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    start=st.integers(0, 20),
    stop=st.integers(0, 60),
)
def test_take_is_a_slice_of_the_concatenation(spans, start, stop):
    intervals = tuple((20 * i, 20 * i + n) for i, n in enumerate(spans))
    flat = [p for low, high in intervals for p in range(low, high)]
    got = take(intervals, start, stop)
    assert [p for low, high in got for p in range(low, high)] == flat[start : max(start, stop)]
    assert length(got) == len(flat[start : max(start, stop)])


@given(topology=topologies, steps=st.integers(0, 50))
def test_batches_done_counts_turns(topology, steps):
    for worker in range(topology.streams):
        turns = sum(step % topology.streams == worker for step in range(steps))
        assert batches_done(steps, topology, worker=worker) == turns


def test_generators_are_independent():
    draws = {
        Generators(seed=seed, epoch=epoch).of(location, stream=number).integers(2**62)
        for seed in (0, 1)
        for epoch in (0, 1)
        for location in (0, 251_078)
        for number in (0, 1, 2)
    }
    assert len(draws) == 24


def test_generators_are_those_of_a_keyed_philox():
    generators = Generators(seed=3, epoch=2)
    for location, number in ((7, 0), (7, 2), (251_078, 1), (7, 0)):
        expected = np.random.Generator(np.random.Philox(key=[3 << 32 | 2, location << 8 | number]))
        rng = generators.of(location, stream=number)
        assert rng.random(5).tolist() == expected.random(5).tolist()
        assert rng.integers(4, size=3).tolist() == expected.integers(4, size=3).tolist()
