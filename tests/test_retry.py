"""Patience as arithmetic: what a read may cost at most, and what is counted."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.retry import Counters, Counts, Passing, Progress, Retrier, RetryPolicy

seconds = st.floats(0.01, 1000)
policies = st.builds(
    RetryPolicy, first_wait_seconds=st.floats(0.001, 100), longest_wait_seconds=st.floats(0, 100),
    give_up_seconds=seconds, min_bytes_per_second=st.floats(1, 1e9),
)  # fmt: skip


@given(policy=policies, fruitless=st.integers(0, 200), draw=st.floats(0, 1, exclude_max=True))
def test_waits_double_up_to_a_limit_less_half_at_random(policy, fruitless, draw):
    wait = policy.wait_seconds(fruitless, draw=draw)
    full = policy.first_wait_seconds
    for _ in range(fruitless - 1):
        full = min(2 * full, 200.0)
    full = min(full, policy.longest_wait_seconds)
    assert full / 2 <= wait <= full
    assert wait == pytest.approx(full * (1 - draw / 2))


@given(policy=policies, size=st.integers(1, 1 << 30), data=st.data())
def test_no_read_takes_longer_than_promised(policy, size, data):
    """Whatever comes when: with time left the promise is not broken yet, and silence ends."""
    start = data.draw(st.floats(0, 10_000))
    silence = data.draw(st.floats(0, start))
    received = data.draw(st.integers(0, size))
    left = policy.seconds_left(since_start=start, since_byte=silence, received=received)
    if left > 0:
        assert silence < policy.give_up_seconds
        assert start < policy.give_up_seconds + size / policy.min_bytes_per_second
    on_pace = received >= start * policy.min_bytes_per_second
    if on_pace and silence < policy.give_up_seconds:
        assert left > 0  # a link that keeps the pace is never given up


def test_the_defaults_end_before_others_lose_patience():
    policy = RetryPolicy()
    largest_request, watchdog_seconds = 16 << 20, 600
    worst = policy.give_up_seconds + largest_request / policy.min_bytes_per_second
    assert worst + policy.stall_seconds < watchdog_seconds


@pytest.mark.parametrize(
    "wrong", [{"give_up_seconds": 0.0}, {"stall_seconds": -1.0}, {"sign_in_attempts": 0}]
)
def test_values_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=f"RetryPolicy.{next(iter(wrong))} is .*positive"):
        RetryPolicy(**wrong)


def test_counters_lose_nothing_between_threads():
    counters, taken = Counters(), []

    def work():
        for i in range(500):
            counters.add(requests=1, retries=2, num_bytes=3)
            if i % 100 == 0:
                taken.append(counters.take())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.append(counters.take())
    assert sum(each.requests for each in taken) == counters.requests == 4000
    assert sum(each.retries for each in taken) == counters.retries == 8000
    assert sum(each.bytes for each in taken) == counters.bytes == 12_000
    assert counters.take() == Counts()


def retrier(**changes):
    policy = RetryPolicy(
        first_wait_seconds=0.0, longest_wait_seconds=0.0, give_up_seconds=0.2, **changes
    )
    return Retrier(policy=policy, counters=Counters())


def test_credentials_that_nobody_gives_are_asked_for_three_times():
    patient = retrier()
    progress = Progress(what="x", policy=patient.policy)

    def attempt():
        progress.begin()
        raise Passing("nobody there", advice="Sign in.", sign_in=True)

    with pytest.raises(StorageError, match=r"gave up after 3 attempts.*nobody there\. Sign in\."):
        patient.run(attempt, progress=progress)


def test_a_store_that_has_answered_is_worth_waiting_for():
    patient = retrier()
    patient.counters.add(num_bytes=1)
    progress = Progress(what="x", policy=patient.policy)

    def attempt():
        progress.begin()
        if progress.attempts < 10:
            raise Passing("nobody there", sign_in=True)

    patient.run(attempt, progress=progress)
    assert progress.attempts == 10
    assert patient.counters.retries == 9


def test_other_errors_go_through_at_once():
    patient, calls = retrier(), []

    def attempt():
        calls.append(1)
        if len(calls) == 1:
            raise Passing("a moment")
        raise StorageError("for good")

    with pytest.raises(StorageError, match=r"^for good$"):
        patient.run(attempt, progress=Progress(what="x", policy=patient.policy))
    assert len(calls) == 2
