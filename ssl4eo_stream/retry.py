"""Patience with storage: what is tried again, how long, how often, and where that can be seen.

Knows nothing of any client: a read is a function that is called until it returns, and that raises
`Passing` for what may be better next time. A read that gets bytes is never given up for its number
of attempts, only for its pace, so a slow link finishes and a dead one ends with a message.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.nap import sleep_using_event

from ssl4eo_stream.errors import StorageError

logger = logging.getLogger(__name__)

OUTAGE = "Check the network and the storage's health, then start again: a run resumes."


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long a store is waited for.

    A read of n bytes ends, well or not, within `give_up_seconds + n / min_bytes_per_second` and one
    last attempt's wait: with the defaults under eight minutes for the loader's largest request of
    16 MiB, and under four where nothing comes at all; NCCL's watchdog stops a run after ten.

    Raises:
        ValueError: A field is out of its range.
    """

    connect_seconds: float = 10.0
    """Longest wait for a connection."""
    stall_seconds: float = 20.0
    """Longest wait for the next bytes of an answer, and the window of `min_bytes_per_second`."""
    attempt_seconds: float = 300.0
    """Longest that one answer may take; what is left is asked for again."""
    min_bytes_per_second: float = 65_536.0
    """An answer that is slower over a window is stopped, and what is left is asked for again."""
    first_wait_seconds: float = 0.1
    """Wait before the first new attempt, doubled for each one that brings no byte, less a random
    part of up to a half so that many readers do not come back together."""
    longest_wait_seconds: float = 15.0
    """No wait is longer."""
    give_up_seconds: float = 180.0
    """Longest time without a byte."""
    sign_in_attempts: int = 3
    """Attempts to get credentials from the machine's metadata service, in a store that has not
    answered yet: outside a cloud there is no such service."""
    warn_seconds: float = 10.0
    """Of new attempts in one store, one is logged as a warning in this time; the others are counted
    in it, and logged for debugging."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value < 0 or (
                value == 0 and not each.name.endswith(("wait_seconds", "warn_seconds"))
            ):
                raise ValueError(f"RetryPolicy.{each.name} is {value}; it must be positive.")

    def wait_seconds(self, fruitless: int, *, draw: float) -> float:
        """Return how long to wait after so many attempts without a byte.

        Args:
            fruitless: Attempts since the last byte; 0 where the last one brought some.
            draw: Random number in [0, 1).
        """
        doubled = self.first_wait_seconds * 2.0 ** min(max(fruitless - 1, 0), 60)
        return min(doubled, self.longest_wait_seconds) * (1 - draw / 2)

    def seconds_left(self, *, since_start: float, since_byte: float, received: int) -> float:
        """Return how much longer a read may go on.

        Args:
            since_start: Seconds since the read began.
            since_byte: Seconds since its last byte, or since it began.
            received: Bytes that it has.
        """
        by_pace = self.give_up_seconds + received / self.min_bytes_per_second - since_start
        return min(by_pace, self.give_up_seconds - since_byte)


class Passing(Exception):  # noqa: N818 - a reason to go on, not an error
    """Something that may be better at the next attempt.

    Args:
        cause: What happened, fit to be shown.
        advice: What to do if it stays so.
        sign_in: Whether it happened while asking for credentials.
    """

    def __init__(self, cause: str, *, advice: str = "", sign_in: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.advice, self.sign_in = cause, advice, sign_in


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was asked of a store."""

    requests: int = 0
    """Requests, new attempts among them."""
    retries: int = 0
    """New attempts."""
    bytes: int = 0
    """Bytes that came."""


class Counters:
    """Counts of one store in this process; any number of threads may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now, self._taken = (0, 0, 0), (0, 0, 0)

    def add(self, *, requests: int = 0, retries: int = 0, num_bytes: int = 0) -> None:
        """Count."""
        with self._lock:
            before = self._now
            self._now = (before[0] + requests, before[1] + retries, before[2] + num_bytes)

    @property
    def requests(self) -> int:
        """Requests since the store was opened, new attempts among them."""
        return self._now[0]

    @property
    def retries(self) -> int:
        """New attempts since the store was opened."""
        return self._now[1]

    @property
    def bytes(self) -> int:
        """Bytes since the store was opened."""
        return self._now[2]

    def take(self) -> Counts:
        """Return the counts since the last call."""
        with self._lock:
            then, self._taken = self._taken, self._now
            since = [now - before for now, before in zip(self._now, then, strict=True)]
        return Counts(requests=since[0], retries=since[1], bytes=since[2])


@dataclass(kw_only=True)
class Progress:
    """How far one read is, over all its attempts."""

    what: str
    """What is read, for messages."""
    verb: str = "read"
    """What is done to it, for messages."""
    policy: RetryPolicy
    """How long it may take."""
    wanted: int | None = None
    """Bytes to come, where known."""
    received: int = 0
    """Bytes that came."""
    attempts: int = 0
    """Attempts begun."""
    fruitless: int = 0
    """Attempts ended since the last byte."""
    started: float = field(default_factory=time.monotonic)
    """When it began."""
    last_byte: float = field(default_factory=time.monotonic)
    """When bytes last came."""
    _window: tuple[float, int] = (0.0, 0)

    def begin(self) -> None:
        """Note that an attempt begins."""
        self.attempts += 1
        self.fruitless += 1
        self._window = (time.monotonic(), self.received)

    def add(self, num_bytes: int) -> None:
        """Note bytes that came.

        Raises:
            Passing: They come too slowly to wait for the rest.
        """
        now = time.monotonic()
        self.received += num_bytes
        self.last_byte, self.fruitless = now, 0
        since, before = self._window
        if now - since < self.policy.stall_seconds or self.received == self.wanted:
            return
        pace = (self.received - before) / (now - since)
        if pace < self.policy.min_bytes_per_second:
            raise Passing(
                f"only {pace:,.0f} bytes/s came in {now - since:.1f} s "
                f"(the limit is {self.policy.min_bytes_per_second:,.0f})"
            )
        self._window = (now, self.received)

    @property
    def seconds_left(self) -> float:
        """How much longer it may go on."""
        now = time.monotonic()
        return self.policy.seconds_left(
            since_start=now - self.started, since_byte=now - self.last_byte, received=self.received
        )

    def __str__(self) -> str:
        wanted = "" if self.wanted is None else f" of {self.wanted:,}"
        return f"{self.received:,}{wanted} bytes"


class Retrier:
    """Calls reads of one store until they return.

    Args:
        policy: How long.
        counters: Where it is counted.
    """

    def __init__(self, *, policy: RetryPolicy, counters: Counters) -> None:
        self.policy, self.counters = policy, counters
        self._random = random.Random()  # not the program's own: its draws must not depend on faults
        self._lock = threading.Lock()
        self._warned, self._unsaid = float("-inf"), 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let reads under way end at their next failure."""
        self._stopped.set()

    def run(self, attempt: Callable[[], None], *, progress: Progress) -> None:
        """Call `attempt` until it returns.

        Raises:
            StorageError: It raised `Passing` for too long.
        """
        try:
            return attempt()
        except Passing as failure:
            pending = [failure]

        def again() -> None:  # tenacity costs 0.1 ms a call: too much for reads that go well
            if pending:
                raise pending.pop()
            attempt()

        def stop(state: RetryCallState) -> bool:
            in_vain = _failure(state).sign_in and not self.counters.bytes
            signed_in_vain = in_vain and progress.attempts >= self.policy.sign_in_attempts
            return signed_in_vain or progress.seconds_left <= 0 or self._stopped.is_set()

        def wait(_: RetryCallState) -> float:
            drawn = self.policy.wait_seconds(progress.fruitless, draw=self._random.random())
            return max(min(drawn, progress.seconds_left), 0.0)

        def say(state: RetryCallState) -> None:
            self.counters.add(retries=1)
            assert state.next_action is not None
            self._say(progress, _failure(state), wait_seconds=state.next_action.sleep)

        def give_up(state: RetryCallState) -> None:
            failure = _failure(state)
            seconds = time.monotonic() - progress.started
            raise StorageError(
                f"Cannot {progress.verb} {progress.what}: gave up after {progress.attempts} "
                f"attempts in {seconds:.1f} s with {progress}; the last one ended with: "
                f"{failure.cause}. "
                f"{failure.advice or OUTAGE}"
            )

        Retrying(
            retry=retry_if_exception_type(Passing), stop=stop, wait=wait, before_sleep=say,
            sleep=sleep_using_event(self._stopped), retry_error_callback=give_up,
        )(again)  # fmt: skip
        return None

    def _say(self, progress: Progress, failure: Passing, *, wait_seconds: float) -> None:
        now = time.monotonic()
        with self._lock:
            due = now - self._warned >= self.policy.warn_seconds
            unsaid, self._unsaid = self._unsaid, 0 if due else self._unsaid + 1
            self._warned = now if due else self._warned
        more = f" ({unsaid} more such warnings since the last one were held back)"
        logger.log(
            logging.WARNING if due else logging.DEBUG,
            "%s: attempt %d ended with %s: %s; the rest is asked for again in %.1f s%s",
            progress.what, progress.attempts, progress, failure.cause, wait_seconds,
            more if due and unsaid else "",
        )  # fmt: skip


def _failure(state: RetryCallState) -> Passing:
    """Return why the last attempt ended."""
    assert state.outcome is not None
    failure = state.outcome.exception()
    assert isinstance(failure, Passing)
    return failure
