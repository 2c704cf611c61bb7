"""What became of each location: the shortest prefix of the plan, whoever works and whoever dies."""

import os
import random
import sqlite3
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl4eo_stream.collect.state import Counts, State
from ssl4eo_stream.collect.taken import Place
from ssl4eo_stream.errors import PlanError, StorageError

PLACES = [Place(id=3 * i, lon=float(i), lat=1.5) for i in range(40)]
ASKED = {"year": 2021, "products": ["s1", "s2c"]}


def state(folder, *, places=PLACES, asked=ASKED, wanted=10):
    return State(folder / "collect.sqlite", places=places, settings=asked, wanted=wanted)


def looked_at(folder):
    with sqlite3.connect(folder / "collect.sqlite") as connection:
        return connection.execute(
            "SELECT id, status, reason FROM locations ORDER BY position"
        ).fetchall()


def prefix(good, wanted):
    """The oracle: go through the plan in order until as many are good."""
    done, seen = 0, []
    for place, fine in zip(PLACES, good, strict=True):
        if done == wanted:
            break
        seen.append((place.id, "done" if fine else "rejected", "" if fine else "bad"))
        done += fine
    return seen


@given(
    st.lists(st.booleans(), min_size=len(PLACES), max_size=len(PLACES)),
    st.integers(1, 45), st.randoms(use_true_random=False), st.integers(1, 12),
)  # fmt: skip
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.large_base_example]
)  # the plan has that many places
def test_any_order_of_any_workers_looks_at_the_shortest_prefix(
    tmp_path_factory, good, wanted, chance, concurrency
):
    folder = tmp_path_factory.mktemp("state")
    fine = {place.id: each for place, each in zip(PLACES, good, strict=True)}
    states = [state(folder, wanted=wanted) for _ in range(2)]
    in_work = []
    while True:
        one = chance.choice(states)
        claimed = one.claim() if len(in_work) < concurrency else "later"
        if claimed == "over":
            break
        if claimed != "later":
            in_work.append((one, claimed))
        if in_work and (claimed == "later" or chance.random() < 0.5):
            owner, place = in_work.pop(chance.randrange(len(in_work)))
            if chance.random() < 0.15:  # its process ends here, and another takes its place
                states.remove(owner)
                owner.close()
                in_work = [each for each in in_work if each[0] is not owner]
                states.append(state(folder, wanted=wanted))
            else:
                done = fine[place.id]
                assert owner.finish(
                    place, "done" if done else "rejected", reason="" if done else "bad"
                )
    assert looked_at(folder) == prefix(good, wanted)
    for each in states:
        each.close()


def test_what_failed_holds_its_place_until_the_next_run(tmp_path):
    first = state(tmp_path, wanted=2)
    one, two = first.claim(), first.claim()
    assert (one, two) == (PLACES[0], PLACES[1])
    assert first.claim() == "later"
    first.finish(one, "failed", reason="503")
    first.finish(two, "done")
    assert first.claim() == "over"
    assert first.reasons("failed") == {"503": 1}
    first.close()
    second = state(tmp_path, wanted=2)
    assert second.counts() == Counts(done=1, rejected=0, failed=0, claimed=0, pending=1)
    assert second.claim() == PLACES[0]
    second.finish(PLACES[0], "rejected", reason="no s1")
    assert second.claim() == PLACES[2]
    second.finish(PLACES[2], "done")
    assert second.claim() == "over"
    second.close()


def test_more_may_be_wanted_later_and_a_longer_plan_given(tmp_path):
    for wanted, length in ((5, 10), (9, 10), (15, 40)):
        one = state(tmp_path, wanted=wanted, places=PLACES[:length])
        while isinstance(place := one.claim(), Place):
            one.finish(place, "done")
        assert one.counts().done == wanted
        one.close()
    assert [row[0] for row in looked_at(tmp_path)] == [place.id for place in PLACES[:15]]
    with pytest.raises(PlanError, match="another plan, of 40 locations; this one has 10 and does"):
        state(tmp_path, places=PLACES[:10])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"asked": ASKED | {"year": 2020}}, r"begun with year 2021 \(asked for now: 2020\)"),
        ({"asked": ASKED | {"seed": 1}}, r"begun with seed None \(asked for now: 1\)"),
        ({"places": PLACES[1:]}, "begun with another plan"),
        ({"places": [*PLACES[:7], Place(id=21, lon=7.0, lat=1.6), *PLACES[8:]]}, "another plan"),
    ],
)
def test_another_plan_or_other_settings_are_refused(tmp_path, options, message):
    state(tmp_path).close()
    with pytest.raises(PlanError, match=message):
        state(tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["collect.sqlite"]
    state(tmp_path).close()


def test_a_process_that_is_killed_loses_its_claims_and_one_that_lives_does_not(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tests.test_collect_state import state\n"
        "one = state(Path(sys.argv[1])); one.claim(); print('claimed', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "claimed\n"
        mine = state(tmp_path)
        assert mine.claim() == PLACES[1]
        mine.release_dead()
        assert mine.counts().claimed == 2
    finally:
        other.kill()
        other.communicate()
    mine.release_dead()
    assert mine.counts() == Counts(done=0, rejected=0, failed=0, claimed=1, pending=1)
    assert mine.claim() == PLACES[0]
    assert len([*tmp_path.glob(".collect-*.lock")]) == 1
    mine.close()
    assert not [*tmp_path.glob(".collect-*.lock")]


def test_a_process_of_another_machine_is_given_up_once_it_is_silent(tmp_path):
    mine = state(tmp_path)
    with sqlite3.connect(tmp_path / "collect.sqlite") as connection:
        for name, age in (("away", 500), ("gone", 700)):
            connection.execute(
                "INSERT INTO processes VALUES (?, 'elsewhere', ?)", (name, time.time() - age)
            )
        connection.execute("INSERT INTO locations VALUES (0, 0, 'claimed', '', 'away', 0)")
        connection.execute("INSERT INTO locations VALUES (1, 3, 'claimed', '', 'gone', 0)")
    mine.release_dead()
    assert mine.claim() == PLACES[1]
    assert mine.claim() == PLACES[2]
    mine.close()


def test_what_was_taken_over_cannot_be_finished_by_who_had_it(tmp_path):
    old, new = state(tmp_path), state(tmp_path)
    place = old.claim()
    with sqlite3.connect(tmp_path / "collect.sqlite") as connection:
        connection.execute("UPDATE locations SET status = 'pending'")
    assert new.claim() == place
    assert not old.finish(place, "failed", reason="late")
    assert new.finish(place, "done")
    assert not new.finish(place, "rejected")
    assert looked_at(tmp_path) == [(0, "done", "")]
    old.close()
    new.close()


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "collect.sqlite").write_bytes(random.Random(0).randbytes(8192))
    with pytest.raises(StorageError, match=r"collect\.sqlite: file is not a database\. It must be"):
        state(tmp_path)
    with pytest.raises(StorageError, match=r"lock can't be made and locked: No such file"):
        state(tmp_path / "none")
    assert os.listdir(tmp_path) == ["collect.sqlite"]  # noqa: PTH208
