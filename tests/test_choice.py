"""Which scenes: each preference over the next, whatever the order in which scenes come."""

from datetime import UTC, datetime, timedelta

import pytest
from archive_of_images import scene
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.collect.choice import Rejection, Wish, choose
from ssl4eo_stream.collect.scene import Window

START = datetime(2021, 3, 5, tzinfo=UTC)
DAYS = 30


def window(number):
    """Window 0 and, a year before it, -1; 1 a quarter later."""
    start = START + timedelta(days=91 * number if number >= 0 else 365 * number)
    return Window(start=start, end=start + timedelta(days=DAYS))


def at(days, *, of=0):
    return window(of).start + timedelta(days=days)


ALL = Wish(products=("s1", "s2a", "s2c"))
BOTH = Wish(products=("s2a", "s2c"))
L1C = Wish(products=("s2c",))


def pair(time, **options):
    return {
        name: scene(name, time, **({"datatake": f"{time}"} | options)) for name in BOTH.products
    }


def gathered(*pairs, s1=()):
    return {name: [each[name] for each in pairs if name in each] for name in BOTH.products} | {
        "s1": list(s1)
    }


def names(choice):
    assert not isinstance(choice, Rejection), choice.reason
    return [{product: each.name for product, each in date.items()} for date in choice]


def test_one_pass_and_tile_is_preferred_to_clearer_scenes_of_two():
    found = gathered(
        pair(at(3), cloud=9.0),
        {"s2c": scene("s2c", at(8), cloud=0.0, datatake="x")},
        {"s2a": scene("s2a", at(13), cloud=0.0, datatake="y")},
    )
    (date,) = choose(found, [[window(0)]], wish=BOTH)
    assert date["s2a"].time == date["s2c"].time == at(3)
    (date,) = choose(found, [[window(0)]], wish=BOTH, without=["s2a/" + date["s2a"].name])
    assert (date["s2a"].time, date["s2c"].time) == (at(13), at(8))


def test_one_pass_in_two_tiles_is_no_pair():
    found = {
        "s2c": [scene("s2c", at(3), tile="T32UPU", cloud=0.0), scene("s2c", at(3), tile="T33UUP")],
        "s2a": [scene("s2a", at(3), tile="T33UUP")],
    }
    (date,) = choose(found, [[window(0)]], wish=BOTH)
    assert {each.properties["MGRS_TILE"] for each in date.values()} == {"33UUP"}


def test_clouds_then_the_middle_then_the_name():
    scenes = [
        scene("s2c", at(2), cloud=3.0), scene("s2c", at(16), cloud=4.0, name="b"),
        scene("s2c", at(14), cloud=4.0, name="a"), scene("s2c", at(20), cloud=4.0),
        scene("s2c", at(15), cloud=10.0),
    ]  # fmt: skip
    order, without = [], []
    while not isinstance(
        choice := choose({"s2c": scenes}, [[window(0)]], wish=L1C, without=without), Rejection
    ):
        order.append(choice[0]["s2c"])
        without.append(choice[0]["s2c"].id)
    assert order == [scenes[i] for i in (0, 2, 1, 3)]  # ten percent is not below ten
    assert choice.reason == "no s2c with cloud < 10 % without missing pixels on date 1"


def test_a_tile_that_has_all_dates_is_preferred():
    def scenes(number, **clouds):
        return [scene("s2c", at(9, of=number), tile=t, cloud=c) for t, c in clouds.items()]

    windows = [[window(0)], [window(1)]]
    found = {"s2c": scenes(0, T1A=9.0, T2A=1.0) + scenes(1, T1A=8.0, T3A=0.0)}
    tiles = [each["s2c"].properties["MGRS_TILE"] for each in choose(found, windows, wish=L1C)]
    assert tiles == ["1A", "1A"]
    found["s2c"] += scenes(1, T2A=9.0)  # now two tiles have both dates: 9 + 8 > 1 + 9
    tiles = [each["s2c"].properties["MGRS_TILE"] for each in choose(found, windows, wish=L1C)]
    assert tiles == ["2A", "2A"]
    found["s2c"] = [each for each in found["s2c"] if each.properties["MGRS_TILE"] not in {"1A"}][:2]
    tiles = [each["s2c"].properties["MGRS_TILE"] for each in choose(found, windows, wish=L1C)]
    assert tiles == ["2A", "3A"]


def test_radar_is_the_nearest_in_time_of_the_orbit_asked_for():
    radar = [
        scene("s1", at(4), ascending=True), scene("s1", at(9), ascending=False),
        scene("s1", at(13), ascending=True),
    ]  # fmt: skip
    found = gathered(pair(at(8)), s1=radar)
    for orbit, days in (("any", 9), ("desc", 9), ("asc", 4)):
        wish = Wish(products=ALL.products, orbit=orbit)
        assert choose(found, [[window(0)]], wish=wish)[0]["s1"].time == at(days)
        alone = choose(found, [[window(0)]], wish=Wish(products=("s1",), orbit=orbit))[0]["s1"]
        assert alone.time == at(9 if orbit == "desc" else 13)


def test_the_year_before_is_taken_whole_where_the_year_lacks_a_product():
    found = gathered(pair(at(3)), pair(at(7, of=-1)), s1=[scene("s1", at(5, of=-1))])
    lacking = choose(found, [[window(0)]], wish=ALL)
    assert lacking == Rejection(reason="no s1 on date 1", lacking=(0,))
    (date,) = choose(found, [[window(0), window(-1)]], wish=ALL)
    assert {each.time.year for each in date.values()} == {2020}
    found["s1"].append(scene("s1", at(20)))
    (date,) = choose(found, [[window(0), window(-1)]], wish=ALL)
    assert {each.time.year for each in date.values()} == {2021}


@pytest.mark.parametrize(
    ("wish", "found", "reason"),
    [
        (ALL, gathered(pair(at(3)), pair(at(3, of=1)), s1=[scene("s1", at(3))]), "no s1 on date 2"),
        (ALL, gathered(s1=[scene("s1", at(3))]), "no s2a with cloud < 10 % on date 1"),
        (
            Wish(products=("s2c",), cloud_percent=2.5),
            {"s2c": [scene("s2c", at(1), cloud=2.5)]},
            "no s2c with cloud < 2.5 % on date 1",
        ),
        (
            Wish(products=("s1",), orbit="asc"),
            {"s1": [scene("s1", at(1), ascending=False), scene("s1", at(2))]},
            "no ascending s1 on date 1",
        ),
    ],
)
def test_a_rejection_names_product_and_date(wish, found, reason):
    made = choose(found, [[window(0)], [window(1)]], wish=wish)
    assert isinstance(made, Rejection)
    assert made.reason == reason


def test_dates_that_lack_something_are_told():
    found = {"s2c": [scene("s2c", at(4, of=1))]}
    made = choose(found, [[window(i)] for i in range(3)], wish=L1C)
    assert made.lacking == (0, 2)


@st.composite
def archives(draw):
    found = {name: [] for name in ALL.products}
    for product in draw(st.lists(st.sampled_from(ALL.products), max_size=40)):
        tile = draw(st.sampled_from(["T1A", "T2A"]))
        time = at(draw(st.integers(0, 35)), of=draw(st.sampled_from([-1, 0, 1])))
        made = scene(
            product, time, tile=tile, datatake=draw(st.sampled_from("ab")),
            cloud=draw(st.sampled_from([0.0, 5.0, 20.0])), name=f"{time:%Y%m%d}_{tile}",
        )  # fmt: skip
        if made.id not in {each.id for each in found[product]}:
            found[product].append(made)
    return found


@given(archives(), st.randoms(use_true_random=False), st.booleans())
def test_what_is_chosen_keeps_the_rules_whatever_the_order(found, random, radar):
    wish = ALL if radar else BOTH
    windows = [[window(0), window(-1)], [window(1)]]
    made = choose(found, windows, wish=wish)
    shuffled = {name: random.sample(each, len(each)) for name, each in found.items()}
    assert choose(shuffled, windows, wish=wish) == made

    def whole(each):
        return all(
            any(each.holds(s.time) and (p == "s1" or s.cloud_percent < 10) for s in found[p])
            for p in wish.products
        )

    expected = [next((each for each in tries if whole(each)), None) for tries in windows]
    if isinstance(made, Rejection):
        assert made.lacking == tuple(i for i, each in enumerate(expected) if each is None)
        return
    for date, each in zip(made, expected, strict=True):
        assert list(date) == list(wish.products)
        assert all(each.holds(s.time) for s in date.values())
        assert all(s.cloud_percent is None or s.cloud_percent < 10 for s in date.values())
        one, other = date["s2a"], date["s2c"]
        clear = {p: [s for s in found[p] if each.holds(s.time) and s.cloud_percent < 10]
                 for p in BOTH.products}  # fmt: skip
        keys = [{(s.datatake, s.properties["MGRS_TILE"]) for s in clear[p]} for p in clear]
        same = (one.datatake, one.properties) == (other.datatake, other.properties)
        assert (
            not (keys[0] & keys[1])
            or same
            or one.properties["MGRS_TILE"] == (other.properties["MGRS_TILE"])
        )
