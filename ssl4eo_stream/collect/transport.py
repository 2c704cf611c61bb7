"""How requests of Google's clients travel: with time limits, counted, repeated if it may help."""

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import httplib2
import requests
from urllib3.exceptions import HTTPError

from ssl4eo_stream.retry import Counters, Passing, Progress, Retrier, RetryPolicy

PASSING = {408, 429, *range(500, 600)}
"""Answers that may be others at the next attempt; 429 is a quota that is used up for now."""

QUOTA = ("quota exceeded", "too many concurrent aggregations", "rate limit", "resource_exhausted")
"""What Google says, in lower case, of too many requests, whatever the status beside it."""
CHUNK_BYTES = 1 << 16
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
        answers: list[tuple[requests.Response, bytes]] = []
        progress = Progress(
            what=uri.partition("?")[0], policy=self._policy, verb="get an answer from"
        )

        def attempt() -> None:
            progress.begin()
            self.counters.add(requests=1)
            start, content = time.monotonic(), bytearray()
            try:
                with self._session().request(
                    method, uri, data=body, headers=headers, stream=True,
                    timeout=(self._policy.connect_seconds, self._policy.stall_seconds),
                ) as answer:  # fmt: skip
                    # what has come, unlike iter_content, which waits for a whole chunk
                    while part := answer.raw.read1(CHUNK_BYTES, decode_content=True):
                        content += part
                        if time.monotonic() - start > self._policy.attempt_seconds:
                            raise Passing(f"it was not whole in {self._policy.attempt_seconds:g} s")
            except (requests.RequestException, HTTPError) as error:
                raise Passing(f"{type(error).__name__}: {_innermost(error)}") from error
            self.counters.add(num_bytes=len(content))
            said = _reason(answer, content)
            crowded = answer.status_code >= 400 and any(word in said.lower() for word in QUOTA)
            if crowded or answer.status_code in PASSING:
                advice = SLOWER if crowded or answer.status_code == 429 else ""
                raise Passing(f"HTTP {answer.status_code}: {said}", advice=advice)
            answers.append((answer, bytes(content)))

        self._retrier.run(attempt, progress=progress)
        ((answer, content),) = answers
        said = httplib2.Response(dict(answer.headers))
        said.status, said.reason = answer.status_code, answer.reason
        return said, content

    def _session(self) -> requests.Session:
        """Return this thread's session: a session is not promised to be safe among threads."""
        if not hasattr(self._here, "session"):
            self._here.session = requests.Session()
        return self._here.session


def _reason(answer: requests.Response, content: bytes | bytearray) -> str:
    """Return what Google says of an error, or HTTP's word for it."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason


def _innermost(error: BaseException) -> str:
    """Return the innermost cause: the outer ones repeat the address, and what it carries."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause)
