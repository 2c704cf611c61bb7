"""All locations of a plan, many at once: resumable, and stopped within seconds.

Each thread works at one location, one request after the other, so there are never more requests
under way than threads. What is done is known to the state alone; a run that was ended in any way
goes on where it was, with at most the locations that were in work begun again.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ssl4eo_stream.collect.choice import Rejection
from ssl4eo_stream.collect.fetch import Request, Stopped, fetch
from ssl4eo_stream.collect.scene import ImageService
from ssl4eo_stream.collect.state import Counts, Ending, State
from ssl4eo_stream.collect.taken import Place, Sink
from ssl4eo_stream.errors import ServiceError
from ssl4eo_stream.sample import location_key

BEAT_SECONDS = 5.0
"""How often the state hears of this process, and looks after others."""
LEAVE_SECONDS = 3.0
"""How long a run that is stopped waits for requests under way; then it leaves them."""
FAILURES_IN_A_ROW = 40
"""Locations that the service did not answer for, one after the other, after which the run ends:
more than are in work at once by default, so that one outage, which ends them all, is survived."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a location."""

    place: Place
    """Which."""
    status: Ending
    """What."""
    reason: str = ""
    """Why it is not done."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the plan, by this run and all others."""

    counts: Counts
    """Locations by state."""
    rejected: dict[str, int]
    """Why locations were rejected -> how many, the most frequent first."""


def crawl(
    service: ImageService,
    sink: Sink,
    *,
    request: Request,
    state: State,
    concurrency: int,
    failures_in_a_row: int = FAILURES_IN_A_ROW,
    on_outcome: Callable[[Outcome], object] = lambda _: None,
) -> Report:
    """Collect what the state says is wanted.

    Args:
        service: Who has images.
        sink: Where they go.
        request: What is to be had of every location.
        state: What is wanted and what became of it; closed at the end, however it comes.
        concurrency: Locations in work at once, so also requests.
        failures_in_a_row: When to give up.
        on_outcome: Called after each location, in this thread.

    Raises:
        ServiceError: The service failed for too many locations in a row.
        StorageError: What was taken can't be kept, or the state not written.
    """
    stop, changed = threading.Event(), threading.Condition()
    outcomes: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            while not stop.is_set():
                claimed = state.claim()
                if claimed == "over":
                    break
                if claimed == "later":
                    with changed:
                        changed.wait(timeout=1.0)
                    continue
                outcome = collect(claimed, service, sink, request=request, stopped=stop.is_set)
                if state.finish(claimed, outcome.status, reason=outcome.reason):
                    outcomes.put(outcome)
                with changed:
                    changed.notify_all()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - told to the main thread, which raises it
            outcomes.put(error)
        outcomes.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(concurrency)]
    try:
        for thread in threads:
            thread.start()
        _watch(outcomes, len(threads), state=state, limit=failures_in_a_row, on_outcome=on_outcome)
        return Report(counts=state.counts(), rejected=state.reasons("rejected"))
    except BaseException:
        stop.set()
        service.stop()
        raise
    finally:
        stop.set()
        with changed:
            changed.notify_all()
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in threads:
            thread.join(timeout=max(deadline - time.monotonic(), 0.0))
        if not any(thread.is_alive() for thread in threads):
            state.close()  # or else they still hold what they claimed, until the process ends


def _watch(
    outcomes: queue.SimpleQueue[Outcome | BaseException | None],
    at_work: int,
    *,
    state: State,
    limit: int,
    on_outcome: Callable[[Outcome], object],
) -> None:
    """Tell of outcomes until all threads are at their end."""
    beat, failures = time.monotonic(), 0
    while at_work:
        said: Outcome | BaseException | None = None
        with contextlib.suppress(queue.Empty):
            said = outcomes.get(timeout=0.5)
            at_work -= said is None
        if isinstance(said, BaseException):
            raise said
        if said is not None:
            on_outcome(said)
            failures = failures + 1 if said.status == "failed" else 0
            if said.status == "failed":
                logger.warning("location %s: %s", location_key(said.place.id), said.reason)
            if failures >= limit:
                raise ServiceError(
                    f"{failures} locations failed in a row; the last: {said.reason} What is done "
                    "is kept: run the same command again once the service answers."
                )
        if time.monotonic() - beat > BEAT_SECONDS:
            beat = time.monotonic()
            state.say_alive()
            state.release_dead()


def collect(
    place: Place,
    service: ImageService,
    sink: Sink,
    *,
    request: Request,
    stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Take one location to where it goes.

    Raises:
        StorageError: It can't be kept.
        Stopped: It was called off.
    """
    try:
        taken = fetch(place, service, request=request, stopped=stopped)
        if stopped():
            raise Stopped
        if isinstance(taken, Rejection):
            sink.discard(place)
            return Outcome(place=place, status="rejected", reason=taken.reason)
        sink.write(place, taken, source=service.name)
    except ServiceError as error:
        if stopped():
            raise Stopped from error
        sink.discard(place)
        return Outcome(place=place, status="failed", reason=str(error))
    return Outcome(place=place, status="done")
