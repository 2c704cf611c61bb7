"""The verdict: who is waited for, whatever the numbers, and where a run shows it."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.stream.clock import Clock
from ssl4eo_stream.stream.verdict import DRY, KEEPS_UP, verdict
from ssl4eo_stream.train.report import Report


def stats_of(*, wait=1.0, idle=0.0, retries=0.0, **shares):
    named = {f"share_{stage}": value for stage, value in shares.items()}
    return {"wait_share": wait, "share_idle": idle, "retries": retries, **named}


@pytest.mark.parametrize(
    ("stats", "bound", "advice"),
    [
        (stats_of(wait=0.01, fetch=0.9, decode=0.1), "trainer-bound", "Nothing to do"),
        (stats_of(wait=0.0, idle=0.8, fetch=0.1, decode=0.9), "trainer-bound", "fewer workers"),
        (stats_of(fetch=0.3, decode=0.4, resize=0.3), "fetch-bound", "more workers or connections"),
        (stats_of(fetch=0.3, decode=0.7, retries=7.0), "fetch-bound", "failed 7 requests"),
        (stats_of(fetch=0.1, decode=0.5, resize=0.4), "decode-bound", "lower quality"),
        (stats_of(fetch=0.1, decode=0.3, resize=0.2, blur=0.2, other=0.2), "view-bound", "device"),
        (stats_of(wait=0.5, decode=0.1, native=0.9), "view-bound", "device"),
    ],
)
def test_verdicts(stats, bound, advice):
    found = verdict(stats)
    assert found.bound == bound
    assert advice in found.advice


def test_nothing_is_said_of_nothing():
    assert verdict(Clock().stats(elapsed_seconds=3.0, wait_seconds=3.0)) is None
    assert verdict({"wait_share": 0.25}) is None


def test_fewer_workers_are_advised_only_where_they_idle():
    advice = verdict(stats_of(wait=0.0, idle=0.2, decode=1.0)).advice
    assert advice == "Nothing to do: the stream keeps up with the trainer."


@given(
    parts=st.lists(st.floats(0.001, 1), min_size=4, max_size=4),
    wait=st.floats(0, 1),
)
def test_the_verdict_is_that_of_the_rules_read_aloud(parts, wait):
    fetch, decode, resize, blur = (part / sum(parts) for part in parts)
    found = verdict(stats_of(wait=wait, fetch=fetch, decode=decode, resize=resize, blur=blur))
    candidates = [
        ("trainer-bound", wait <= KEEPS_UP),
        ("fetch-bound", fetch >= DRY),
        ("decode-bound", decode >= resize + blur),
        ("view-bound", True),
    ]
    assert found.bound == next(name for name, holds in candidates if holds)


def test_a_clock_gives_what_the_verdict_needs():
    clock = Clock(samples=8, seconds={"idle": 1.0, "fetch": 0.1, "decode": 2.0, "resize": 1.0})
    assert verdict(clock.stats(elapsed_seconds=5.0, wait_seconds=4.0)).bound == "decode-bound"


def write(folder, *, wait, stats):
    with Report(folder, step=0, total_steps=10, epochs=1) as report:
        report.write(1, epoch=0, seconds_per_step=1.0, values={"loss": 2.0, "wait_share": wait},
                     stats=stats)  # fmt: skip
    return json.loads((folder / "metrics.jsonl").read_text())


@pytest.mark.parametrize(
    ("wait", "stats", "recorded", "shown"),
    [
        (0.3, stats_of(wait=0.0, decode=1.0), "decode-bound", True),
        (0.01, stats_of(wait=0.9, decode=1.0), "trainer-bound", False),
        (0.3, {"wait_share": 0.3}, None, False),
        (0.3, None, None, False),
    ],
)
def test_a_run_says_what_bounds_it(tmp_path, caplog, wait, stats, recorded, shown):
    """The mean over the ranks decides whether they wait, and rank 0's readers for what."""
    with caplog.at_level(logging.INFO, logger="ssl4eo_stream"):
        values = write(tmp_path, wait=wait, stats=stats)
    assert values.get("verdict") == recorded
    assert ("-bound" in caplog.text) == shown
    assert values["loss"] == 2.0
