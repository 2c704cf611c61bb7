"""How requests of Google's clients travel: with time limits, counted, repeated if it may help."""

import threading
from collections.abc import Mapping
from typing import Any

import httplib2
import requests

from ssl4eo_stream.retry import Counters, Passing, Progress, Retrier, RetryPolicy

PASSING = {408, 429, *range(500, 600)}
"""Answers that may be others at the next attempt; 429 is a quota that is used up for now."""

SLOWER = (
    "Earth Engine allows a project 40 requests at once unless it was granted more (guides, Earth "
    "Engine quotas): give a smaller --concurrency."
)


class Transport:
    """Has the one method of `httplib2.Http` that Google's clients call; for any number of threads.

    Args:
        policy: How long a request is tried.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.counters = Counters()
        self._retrier = Retrier(policy=policy, counters=self.counters)
        self._policy = policy
        self._here = threading.local()

    def stop(self) -> None:
        """Let requests that are under way end at their next failure."""
        self._retrier.stop()

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: Any = None,  # noqa: ANN401 - as httplib2 has it
        headers: Mapping[str, str] | None = None,
        **_: object,
    ) -> tuple[httplib2.Response, bytes]:
        """Send a request until there is an answer that is final."""
        answers: list[requests.Response] = []
        progress = Progress(
            what=uri.partition("?")[0], policy=self._policy, verb="get an answer from"
        )

        def attempt() -> None:
            progress.begin()
            self.counters.add(requests=1)
            try:
                answer = self._session().request(
                    method, uri, data=body, headers=headers,
                    timeout=(self._policy.connect_seconds, self._policy.stall_seconds),
                )  # fmt: skip
            except requests.RequestException as error:
                raise Passing(f"{type(error).__name__}: {_without_address(error)}") from error
            if answer.status_code in PASSING:
                advice = SLOWER if answer.status_code == 429 else ""
                raise Passing(f"HTTP {answer.status_code}: {_reason(answer)}", advice=advice)
            self.counters.add(num_bytes=len(answer.content))
            answers.append(answer)

        self._retrier.run(attempt, progress=progress)
        (answer,) = answers
        said = httplib2.Response(dict(answer.headers))
        said.status, said.reason = answer.status_code, answer.reason
        return said, answer.content

    def _session(self) -> requests.Session:
        """Return this thread's session: a session is not promised to be safe among threads."""
        if not hasattr(self._here, "session"):
            self._here.session = requests.Session()
        return self._here.session


def _reason(answer: requests.Response) -> str:
    """Return what Google says of an error."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason


def _without_address(error: requests.RequestException) -> str:
    """Return the innermost cause: the outer ones repeat the address, and what it carries."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause)
