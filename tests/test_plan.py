"""The plan: every sample once, equal steps, and any place restored on any topology.

Oracles are written slowly, over lists of positions. What is left out of an epoch is exact: behind
any number of restores it is the end of what was left at the last one, (samples - those trained on)
modulo the last topology's global batch. Where the global batch stays the same, as in a run, these
are the last `samples % global batch` positions of the epoch's order, as if nothing had happened.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ssl4eo_stream.stream import plan
from ssl4eo_stream.stream.plan import (
    Generators,
    Position,
    Topology,
    batches_done,
    length,
    num_steps,
    stream,
    take,
)

MOST = 300
"""Samples of the largest data set drawn."""
patient = settings(deadline=None)
slow = settings(deadline=None, max_examples=40)


def order_of(shards, locations=None, *, seed=0, epoch=0, chunk=plan.CHUNK_LOCATIONS,
             block=plan.BLOCK_CHUNKS):  # fmt: skip
    """The one place of these tests that knows what `order` takes."""
    return plan.order(
        shards, seed=seed, epoch=epoch, chunk_locations=chunk, block_chunks=block,
        locations=locations,
    )  # fmt: skip


def even_shards(samples, per_shard=100):
    return (np.arange(samples) // per_shard).astype(np.int32)


@st.composite
def ragged_shards(draw, most=MOST):
    """Shard numbers of every sample: shards of 1 … n samples, some numbers missing."""
    sizes = draw(st.lists(st.integers(1, 90), min_size=1, max_size=12))
    steps = draw(st.lists(st.integers(1, 4), min_size=len(sizes), max_size=len(sizes)))
    return np.repeat(np.cumsum(steps), sizes)[:most].astype(np.int32)


@st.composite
def topologies(draw, most=MOST):
    """Any topology, more often one whose global batch fits into the data."""
    world_size, workers = draw(st.integers(1, 64)), draw(st.integers(0, 16))
    fitting = st.integers(1, max(1, most // world_size // 3))
    batch_size = draw(st.one_of(fitting, st.integers(1, most)))
    return Topology(world_size=world_size, workers=workers, batch_size=batch_size)


seeds = st.integers(0, 2**32 - 1)
epochs = st.integers(0, 1000)
paths = st.lists(st.tuples(topologies(), st.floats(0, 1)), min_size=1, max_size=5)
"""Topologies in turn, and the part of what each could still do that it does."""


def flat(intervals):
    return [position for start, stop in intervals for position in range(start, stop)]


def streams_of(place):
    """What every (rank, worker) reads, as positions."""
    topology = place.topology
    return {
        (rank, worker): flat(stream(place.intervals, topology, rank=rank, worker=worker))
        for rank in range(topology.world_size)
        for worker in range(topology.streams)
    }


def read(place, steps):
    """Positions that all ranks see in the next `steps` steps, batch by batch, the slow way."""
    topology, seen, streams = place.topology, [], streams_of(place)
    for step in range(place.steps, place.steps + steps):
        turn, worker = divmod(step, topology.streams)
        for rank in range(topology.world_size):
            first = turn * topology.batch_size
            batch = streams[rank, worker][first : first + topology.batch_size]
            assert len(batch) == topology.batch_size
            seen += batch
    return seen


def fresh(samples, topology):
    return Position(epoch=0, intervals=((0, samples),), topology=topology, steps=0)


def travel(samples, path):
    """Go through topologies, each restored from a file: the place in the end, and what was seen."""
    place, seen = fresh(samples, path[0][0]), []
    for topology, part in path:
        place = Position.from_dict(json.loads(json.dumps(place.to_dict()))).on(topology)
        steps = round(part * (num_steps(place.intervals, topology) - place.steps))
        seen += read(place, steps)
        place = replace(place, steps=place.steps + steps)
    return place, seen


@patient
@given(shards=ragged_shards(), chunk=st.integers(1, 40), block=st.integers(1, 6), seed=seeds,
       epoch=epochs)  # fmt: skip
def test_order_permutes_within_blocks_of_whole_chunks(shards, chunk, block, seed, epoch):
    got = order_of(shards, seed=seed, epoch=epoch, chunk=chunk, block=block)
    n = len(shards)
    assert sorted(got.rows) == list(range(n))
    first = {number: list(shards).index(number) for number in set(shards)}
    chunk_of = [(shards[row], (row - first[shards[row]]) // chunk) for row in range(n)]
    number_of = {name: i for i, name in enumerate(dict.fromkeys(chunk_of))}
    assert got.chunks.tolist() == [number_of[chunk_of[row]] for row in got.rows]
    assert (np.diff(got.blocks) >= 0).all()
    together = {}
    for chunk_number, block_number in zip(got.chunks.tolist(), got.blocks.tolist(), strict=True):
        together.setdefault(block_number, set()).add(chunk_number)
    sizes = [len(together[number]) for number in range(len(together))]
    assert sizes[:-1] == [block] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= block
    assert sum(sizes) == len(number_of)


@patient
@given(shards=ragged_shards(), dates=st.lists(st.integers(1, 4), min_size=MOST, max_size=MOST),
       chunk=st.integers(1, 40), seed=seeds)  # fmt: skip
def test_the_patches_of_a_location_share_its_chunk(shards, dates, chunk, seed):
    """An epoch over patches cuts the chunks that one over locations does."""
    whole = order_of(shards, seed=seed, chunk=chunk)
    chunk_of = dict(zip(whole.rows.tolist(), whole.chunks.tolist(), strict=True))
    locations = np.repeat(np.arange(len(shards)), dates[: len(shards)])
    got = order_of(shards[locations], locations, seed=seed, chunk=chunk)
    assert sorted(got.rows) == list(range(len(locations)))
    assert got.chunks.tolist() == [chunk_of[location] for location in locations[got.rows]]
    assert (np.diff(got.blocks) >= 0).all()


def test_order_is_golden():
    got = order_of(even_shards(12, 6), seed=7, epoch=3, chunk=2, block=2)
    assert got.rows.tolist() == [1, 3, 0, 2, 8, 5, 4, 9, 7, 11, 10, 6]


@patient
@given(shards=ragged_shards(), one=st.tuples(seeds, epochs), other=st.tuples(seeds, epochs))
@example(shards=even_shards(200), one=(0, 1), other=(1, 0))
def test_order_depends_on_seed_and_epoch_alone(shards, one, other):
    assume(len(shards) >= 60)
    rows = [order_of(shards, seed=seed, epoch=epoch).rows.tolist() for seed, epoch in (one, other)]
    again = order_of(shards.copy(), seed=one[0], epoch=one[1])
    assert rows[0] == again.rows.tolist()
    assert (rows[0] == rows[1]) == (one == other)


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_location_once_an_epoch(world_size, workers):
    topology = Topology(world_size=world_size, workers=workers, batch_size=3)
    canonical, place = order_of(even_shards(1000), seed=1), fresh(1000, topology)
    steps = num_steps(place.intervals, topology)
    seen = canonical.rows[read(place, steps)].tolist()
    assert len(seen) == len(set(seen)) == steps * topology.global_batch
    assert 1000 - len(seen) < topology.global_batch


@patient
@given(shards=ragged_shards(), topology=topologies(), seed=seeds)
@example(shards=even_shards(MOST), seed=0,
         topology=Topology(world_size=64, workers=16, batch_size=1))  # fmt: skip
def test_any_topology_cuts_the_same_order(shards, topology, seed):
    """Ranks and workers one behind the other are the order itself, in whole batches, evenly."""
    n = len(shards)
    streams, steps = streams_of(fresh(n, topology)), n // topology.global_batch
    assert [p for read in streams.values() for p in read] == list(
        range(steps * topology.global_batch)
    )
    for rank in range(topology.world_size):
        sizes = [len(streams[rank, worker]) for worker in range(topology.streams)]
        assert all(size % topology.batch_size == 0 for size in sizes)
        batches = [size // topology.batch_size for size in sizes]
        assert sum(batches) == steps
        assert max(batches) - min(batches) <= 1
    blocks = order_of(shards, seed=seed, chunk=5, block=3).blocks
    assert all((np.diff(blocks[read]) >= 0).all() for read in streams.values())


@slow
@given(shards=ragged_shards(), path=paths)
def test_any_place_on_any_topology(shards, path):
    """Restored again and again on other topologies, the epoch still shows every sample once."""
    n = len(shards)
    place, seen = travel(n, path)
    left = flat(place.remaining())
    assert left == sorted(set(left))
    assert sorted(seen + left) == list(range(n))
    starts, stops = zip(*place.remaining(), strict=True) if left else ((), ())
    assert not set(starts) & set(stops)  # intervals that touch are one
    assert Position.from_dict(json.loads(json.dumps(place.to_dict()))) == place
    blocks = order_of(shards, chunk=5, block=3).blocks
    for mine in streams_of(place).values():
        assert (np.diff(blocks[mine]) >= 0).all()  # a worker never goes back to a block


@slow
@given(samples=st.integers(1, MOST), path=paths)
def test_what_an_epoch_leaves_out_is_known(samples, path):
    """To the end on the last topology: less than one of its global batches is left, the end."""
    last = path[-1][0]
    before, seen = travel(samples, path[:-1]) if path[:-1] else (fresh(samples, last), [])
    place = before.on(last)
    steps = num_steps(place.intervals, last)
    rest = read(place, steps - place.steps)
    expected = (samples - len(seen)) % last.global_batch
    assert samples - len(seen) - len(rest) == expected < last.global_batch
    left_out = flat(replace(place, steps=steps).remaining())
    split = flat(place.intervals)
    assert left_out == split[len(split) - expected :]


@slow
@given(
    samples=st.integers(12, MOST),
    changes=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 16), st.floats(0, 1)),
        min_size=1, max_size=6,
    ),
)  # fmt: skip
def test_a_run_leaves_out_the_same_whatever_happened(samples, changes):
    """With one global batch throughout, restores change neither the steps nor what is left out."""
    path = [
        (Topology(world_size=world, workers=workers, batch_size=12 // world), part)
        for world, workers, part in changes
    ]
    place, seen = travel(samples, [*path[:-1], (path[-1][0], 1.0)])
    assert len(seen) == samples // 12 * 12
    assert flat(place.remaining()) == list(range(samples // 12 * 12, samples))


@patient
@given(samples=st.integers(1, MOST), topology=topologies(), part=st.floats(0, 1))
def test_the_same_topology_goes_on_as_if_nothing_had_happened(samples, topology, part):
    place = fresh(samples, topology)
    total = num_steps(place.intervals, topology)
    done = round(part * total)
    state = json.loads(json.dumps(replace(place, steps=done).to_dict()))
    again = Position.from_dict(state).on(topology)
    assert read(place, done) + read(again, total - done) == read(place, total)


@patient
@given(
    spans=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    start=st.integers(0, 20),
    stop=st.integers(0, 60),
)
def test_take_is_a_slice_of_the_concatenation(spans, start, stop):
    intervals = tuple((20 * i, 20 * i + n) for i, n in enumerate(spans))
    got = take(intervals, start, stop)
    assert flat(got) == flat(intervals)[start : max(start, stop)]
    assert length(got) == len(flat(got))


@patient
@given(topology=topologies(), steps=st.integers(0, 50))
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
