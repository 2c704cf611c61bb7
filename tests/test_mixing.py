"""Scores of an order, against brute force over all pairs and draws, and against known orders."""

from itertools import combinations, pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl4eo_stream.stream import mixing
from ssl4eo_stream.stream.plan import Order, Topology, order, stream

SMALL = st.integers(3, 9)


def order_of(rows, *, chunk=4, block=16):
    rows = np.asarray(rows, np.int64)
    place = np.arange(len(rows))
    return Order(
        rows=rows,
        chunks=(rows // chunk).astype(np.int32),
        blocks=(place // block).astype(np.int32),
    )


def shuffled(locations, seed=0):
    return np.random.default_rng(seed).permutation(locations)


@settings(deadline=None)
@given(
    world=st.integers(1, 4), workers=st.integers(0, 3), size=st.integers(2, 5),
    locations=st.integers(20, 90),
)  # fmt: skip
def test_batches_are_those_that_ranks_see(world, workers, size, locations):
    topology = Topology(world_size=world, workers=workers, batch_size=size)
    canonical = order_of(shuffled(locations))
    seen = mixing.rank_batches(canonical, topology)
    assert len(seen) == locations // (world * size)
    for step, ranks in enumerate(seen):
        for rank, rows in enumerate(ranks):
            mine = stream(((0, locations),), topology, rank=rank, worker=step % topology.streams)
            places = [place for start, stop in mine for place in range(start, stop)]
            first = step // topology.streams * size
            assert rows.tolist() == canonical.rows[places[first : first + size]].tolist()
    assert len(set(seen.ravel().tolist())) == seen.size


def test_too_few_locations_say_so():
    with pytest.raises(ValueError, match="5 locations are fewer than one global batch of 2 ranks"):
        mixing.rank_batches(
            order_of(range(5)), Topology(world_size=2, workers=0, batch_size=3)
        )  # fmt: skip


@given(locations=st.integers(3, 60))
def test_perfect_distances_are_those_of_all_pairs(locations):
    rows = np.arange(4)[None] % locations
    distances = [b - a for a, b in combinations(range(locations), 2)]
    mean = mixing.mean_distance(rows, locations=locations)
    assert mean.perfect == pytest.approx(np.mean(distances) / locations)
    median = mixing.median_distance(rows, locations=locations).perfect * locations
    # The continuous median: so many pairs lie at most that far apart, interpolated between steps.
    below = sum(each <= np.floor(median) for each in distances)
    above = sum(each <= np.floor(median) + 1 for each in distances)
    assert below <= len(distances) / 2 + 1e-9 <= above


@given(rows=st.lists(st.permutations(range(7)), min_size=1, max_size=4))
def test_distances_are_counted_between_neighbours(rows):
    array = np.array(rows)
    slow = [abs(a - b) for row in rows for a, b in pairwise(row)]
    assert mixing.mean_distance(array, locations=7).measured == pytest.approx(np.mean(slow) / 7)
    assert mixing.median_distance(array, locations=7).measured == np.median(slow) / 7


def test_a_batch_of_one_has_no_neighbours():
    with pytest.raises(ValueError, match="batch of 2 or more"):
        mixing.mean_distance(np.zeros((3, 1), np.int64), locations=3)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_expected_groups_are_the_mean_over_all_draws(sizes, data):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    draws = data.draw(st.integers(1, len(groups)))
    counts = [len({groups[i] for i in draw}) for draw in combinations(range(len(groups)), draws)]
    expected = mixing.expected_distinct(np.array(sizes), draws=draws)
    assert expected == pytest.approx(sum(counts) / comb(len(groups), draws))


@given(rows=st.lists(st.permutations(range(8)), min_size=1, max_size=4))
def test_groups_are_counted_per_batch(rows):
    groups = np.array([0, 0, 0, 1, 1, 5, 5, 2], np.int32)
    score = mixing.distinct_groups(np.array(rows)[:, :3], groups=groups)
    assert score.measured == pytest.approx(np.mean([len(set(groups[list(r[:3])])) for r in rows]))


def mean_squared(points):
    return np.mean([((a - b) ** 2).sum() for a, b in combinations(points, 2)])


def test_the_spread_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    places = mixing.unit_vectors(rng.uniform(-180, 180, 30), rng.uniform(-60, 70, 30))
    rows = shuffled(30)[:24].reshape(4, 6)
    score = mixing.spread(rows, places=places)
    square = mixing.EARTH_RADIUS_KILOMETRES**2
    assert score.perfect == pytest.approx(square * mean_squared(places))
    assert score.measured == pytest.approx(
        square * np.mean([mean_squared(places[row]) for row in rows])
    )


def test_unit_vectors_point_where_they_should():
    got = mixing.unit_vectors(np.array([0.0, 90.0, 180.0, 0.0]), np.array([0.0, 0.0, 0.0, 90.0]))
    assert np.allclose(got, [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1]])


@given(size=SMALL, other=SMALL, seed=st.integers(0, 99))
def test_pairs_that_meet_again_are_counted(size, other, seed):
    locations = 40
    first = shuffled(locations, seed)[: locations // size * size].reshape(-1, size)
    second = shuffled(locations, seed + 100)[: locations // other * other].reshape(-1, other)

    def pairs(batches):
        return {frozenset(pair) for row in batches for pair in combinations(row.tolist(), 2)}

    score = mixing.meet_again(first, second, locations=locations)
    assert score.measured == pytest.approx(len(pairs(first) & pairs(second)) / len(pairs(first)))
    assert score.perfect == pytest.approx(len(pairs(second)) / comb(locations, 2))


GROUPS = (np.arange(60_000) // 500).astype(np.int32)
PLACES = mixing.unit_vectors(np.linspace(-170, 170, 60_000), np.zeros(60_000))


def all_scores(first, second, size=50):
    first, second = first.reshape(-1, size), second.reshape(-1, size)
    return {
        "mean": mixing.mean_distance(first, locations=60_000).ratio,
        "median": mixing.median_distance(first, locations=60_000).ratio,
        "groups": mixing.distinct_groups(first, groups=GROUPS).ratio,
        "spread": mixing.spread(first, places=PLACES).ratio,
        "again": mixing.meet_again(first, second, locations=60_000).ratio,
    }


def test_a_perfect_shuffle_scores_one():
    scores = all_scores(shuffled(60_000, 1), shuffled(60_000, 2))
    assert scores.pop("again") == pytest.approx(1, abs=0.05)  # 1,200 pairs are expected
    for name, ratio in scores.items():
        assert ratio == pytest.approx(1, abs=0.01), name


def test_no_shuffle_scores_nothing():
    straight = np.arange(60_000)
    scores = all_scores(straight, straight)
    assert scores.pop("again") == pytest.approx(59_999 / 49)
    for name, ratio in scores.items():
        assert ratio < 0.03, name


def test_bigger_blocks_mix_better():
    """Our own order lies between the two, and nearer to perfect the more chunks are mixed."""
    ratios = []
    for block in (1, 4, 16, 64):
        mine = order(GROUPS, seed=0, epoch=0, chunk_locations=25, block_chunks=block)
        rows = mine.rows.reshape(-1, 50)
        chunks = np.empty(60_000, np.int32)
        chunks[mine.rows] = mine.chunks
        ratios.append(mixing.distinct_groups(rows, groups=chunks).ratio)
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.06
    assert 0.6 < ratios[-1] < 1
