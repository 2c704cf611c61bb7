"""When to look: what the seasons say, and what the release really did."""

import csv
import gzip
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.collect.windows import SEASONS, Calendar, parse_dates
from ssl4eo_stream.errors import PlanError

DAY = timedelta(days=1)


def day(*date):
    return datetime(*date, tzinfo=UTC)


def test_the_seasons_of_a_year_and_of_the_year_before():
    calendar = Calendar(year=2021)
    windows = calendar.windows(17)
    assert [(w.start, w.end) for w in windows] == [
        (day(2021, 3, 5), day(2021, 4, 4)),
        (day(2021, 6, 6), day(2021, 7, 6)),
        (day(2021, 9, 7), day(2021, 10, 7)),
        (day(2021, 12, 6), day(2022, 1, 5)),
    ]
    assert windows[0].holds(day(2021, 3, 5))
    assert not windows[0].holds(day(2021, 4, 4))
    early = calendar.windows(17, years_before=1)
    assert [w.start for w in early] == [day(2020, *w.start.timetuple()[1:3]) for w in windows]
    assert calendar.end == day(2022, 1, 5)


def test_a_leap_day_lengthens_no_window():
    (window,) = Calendar(year=2020, dates=[(3, 1)]).windows(0)
    assert (window.start, window.end) == (day(2020, 2, 15), day(2020, 3, 16))
    assert window.end - window.start == 30 * DAY


def test_phase_zero_is_the_release_unshifted():
    calendar = Calendar(year=2021, random_phase=True)
    location = next(i for i in range(10_000) if calendar.phase(i) == 0)
    middles = [w.start + 15 * DAY for w in calendar.windows(location)]
    assert middles == [day(2020, 12, 21), day(2021, 3, 20), day(2021, 6, 21), day(2021, 9, 22)]
    assert calendar.end == middles[-1] + 15 * DAY


@st.composite
def calendars(draw):
    days = draw(st.lists(st.integers(1, 365), min_size=1, max_size=8, unique=True).map(sorted))
    kept = [days[0]]
    for each in days[1:]:
        if each - kept[-1] >= 30 and kept[0] + 365 - each >= 30:
            kept.append(each)
    dates = [datetime.strptime(f"2023 {each}", "%Y %j") for each in kept]
    return {
        "year": draw(st.integers(2016, 2030)),
        "dates": [(date.month, date.day) for date in dates],
        "random_phase": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**40)),
    }


@given(calendars(), st.integers(0, 9_999_999))
def test_windows_are_thirty_days_in_order_and_never_overlap(fields, location):
    calendar = Calendar(**fields)
    early, late = (calendar.windows(location, years_before=years) for years in (1, 0))
    assert len(early) == len(late) == len(calendar.dates)
    for first, second in pairwise([*early, *late]):
        assert first.end <= second.start
    for before, now in zip(early, late, strict=True):
        assert before.end - before.start == now.end - now.start == 30 * DAY
        assert now.start - before.start in (365 * DAY, 366 * DAY)
    assert 0 <= calendar.phase(location) <= 364
    assert calendar.random_phase or calendar.phase(location) == 0
    assert late[-1].end <= calendar.end


def test_a_phase_depends_on_seed_and_location_alone():
    def phases(locations, **options):
        calendar = Calendar(year=2021, random_phase=True, **options)
        return {i: calendar.phase(i) for i in locations}

    forward, backward = phases(range(2000)), phases(reversed(range(2000)))
    assert forward == backward
    other = phases(range(2000), seed=1)
    assert sum(forward[i] == other[i] for i in forward) < 30
    assert {forward[0], forward[1], forward[2]} == {phases([i])[i] for i in (0, 1, 2)}
    counts = np.bincount([*phases(range(36_500)).values()], minlength=365)
    assert len(counts) == 365
    # Chi-squared of 364 degrees of freedom: 600 is 9 standard deviations too much.
    assert ((counts - 100) ** 2 / 100).sum() < 600


@pytest.mark.parametrize(
    ("year", "dates", "message"),
    [
        (2014, SEASONS, "year 2014: Sentinel-2 has images since 2015"),
        (2021, ((2, 29),), "dates 02-29: day .*every year has"),
        (2021, ((13, 1),), "dates 13-01: month"),
        (2021, (), "dates: there are none"),
        (2021, ((3, 20), (4, 18)), "from 03-20 to 04-18 there are 29 days"),
        (2021, ((6, 21), (3, 20)), "from 06-21 to 03-20 there are -93 days"),
        (2021, ((1, 5), (12, 20)), "from 12-20 to 01-05 there are 16 days"),
    ],
)
def test_wrong_dates_are_named(year, dates, message):
    with pytest.raises(PlanError, match=message):
        Calendar(year=year, dates=dates)


def test_dates_as_flags_say_them():
    assert parse_dates("03-20, 6-21,09-22,12-21") == SEASONS
    with pytest.raises(PlanError, match="dates '0320': write months and days"):
        parse_dates("0320")


@pytest.fixture(scope="module")
def released(real_data):
    """Sensing times of the 2,176 locations of the validation split of v1.1, by location."""
    path = real_data / "cities" / "ssl4eo_s12_v1.1_val_locations.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    times = defaultdict(list)
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            time = datetime.fromisoformat(row["time"]).replace(tzinfo=UTC)
            times[int(row["sample_id"])].append(time)
    assert len(times) == 2176
    return [sorted(each) for each in times.values()]


def statistics(times):
    """Gaps in days, days to the nearest of the seasons' dates, and months by position."""
    gaps = [(b - a).days for each in times for a, b in pairwise(each)]
    seasons = [day(year, *date) for year in range(2019, 2023) for date in SEASONS]
    near = [min(abs(t - s) for s in seasons) <= 15 * DAY for each in times for t in each]
    months = [Counter(each[i].month for each in times) for i in range(4)]
    return gaps, float(np.mean(near)), months


def fits(times, phase):
    references = [day(2020, 12, 21), day(2021, 3, 20), day(2021, 6, 21), day(2021, 9, 22)]
    return all(
        -15 * DAY <= time - (reference - phase * DAY) < 15 * DAY
        for time, reference in zip(times, references, strict=True)
    )


def test_the_releases_dates_are_of_one_phase_for_each_location(released):
    """2,174 of 2,176 locations; of the others one is a day beside, one has another date."""
    fitting = sum(any(fits(each, phase) for phase in range(365)) for each in released)
    assert fitting == 2174


def test_random_phases_have_the_releases_statistics(released):
    rng = np.random.default_rng(5)
    calendar = Calendar(year=2021, random_phase=True)
    drawn = [
        [w.start + 30 * DAY * rng.random() for w in calendar.windows(location)]
        for location in range(len(released))
    ]
    gaps, near, months = statistics(released)
    our_gaps, our_near, our_months = statistics(drawn)
    assert (min(gaps), np.median(gaps), max(gaps)) == (59, 90, 121)
    assert min(our_gaps) >= 59
    assert max(our_gaps) <= 122
    assert np.median(our_gaps) == pytest.approx(90, abs=1.5)
    assert np.mean(our_gaps) == pytest.approx(np.mean(gaps), abs=0.8)
    # The release took the newest clear image of a window, so gaps vary less than between any two.
    assert np.std(our_gaps) == pytest.approx(30 / 6**0.5, rel=0.05)
    passes = [
        [w.end - 5 * DAY * (rng.random() + min(rng.geometric(0.5) - 1, 5)) for w in windows]
        for windows in map(calendar.windows, range(len(released)))
    ]
    assert np.std(statistics(passes)[0]) == pytest.approx(np.std(gaps), rel=0.08)
    assert near == pytest.approx(0.32, abs=0.01)
    assert our_near == pytest.approx(near, abs=0.03)
    for theirs, ours in zip(months, our_months, strict=True):
        # 2,176 / 12 = 181 a month; four standard deviations are 52.
        assert all(abs(theirs[month] - 181) < 70 for month in range(1, 13))
        assert all(abs(ours[month] - 181) < 70 for month in range(1, 13))
