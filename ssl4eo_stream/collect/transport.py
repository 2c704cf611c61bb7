"""HTTP as Earth Engine's client wants it: bounded in time, counted, and faults told apart.

The client takes any object with the one method of `httplib2.Http` that it uses. This one has a
connection for each thread, never waits without end, and raises `Passing` for what may go well at
the next attempt, so that nobody but the caller's `Retrier` tries anything again.
"""

import json
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httplib2
import requests

from ssl4eo_stream.errors import ServiceError
from ssl4eo_stream.retry import Counters, Passing, RetryPolicy

PASSING = {408, 429, 500, 502, 503, 504}
"""Answers that may be others at the next attempt."""
QUOTA = ("quota exceeded", "too many concurrent aggregations", "resource_exhausted", "ratelimit")
"""What Google says, in lower case, of too many requests, whatever the status beside it is."""
SLOWER = (
    "Earth Engine allows a project 40 requests at once unless it was granted more "
    "(https://developers.google.com/earth-engine/guides/usage): ask for fewer at once."
)
CHUNK_BYTES = 1 << 16


class Transport:
    """Requests of one service; calls may come from threads.

    Args:
        policy: How long to wait for connections, for the next bytes, and for a whole answer.
        counters: Where requests and bytes are counted.
    """

    def __init__(self, *, policy: RetryPolicy, counters: Counters) -> None:
        self._policy, self._counters = policy, counters
        self._of_thread = threading.local()  # requests does not promise that sessions can be shared

    def request(
        self,
        uri: str,
        method: str = "GET",
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **_: object,
    ) -> tuple[httplib2.Response, bytes]:
        """Send a request and return the head and the body of its answer, as httplib2 does.

        Args:
            uri: Whole address.
            method: HTTP's word.
            body: What to send.
            headers: Its headers.
            **_: What else httplib2 takes, for redirections and connections.

        Raises:
            Passing: No connection, no whole answer in time, or one that may be another next time.
            ServiceError: The server can't prove who it is.
        """
        session = self._session()
        policy, start = self._policy, time.monotonic()
        content = bytearray()
        self._counters.add(requests=1)
        try:
            with session.request(
                method, uri, data=body, headers=headers, stream=True,
                timeout=(policy.connect_seconds, policy.stall_seconds),
            ) as answer:  # fmt: skip
                for part in answer.iter_content(CHUNK_BYTES):
                    content += part
                    self._counters.add(num_bytes=len(part))
                    if time.monotonic() - start > policy.attempt_seconds:
                        raise Passing(f"no whole answer came in {policy.attempt_seconds:g} s")
        except requests.exceptions.SSLError as error:
            if "certificate" not in str(error):
                raise Passing(_cause(error, content)) from error
            raise ServiceError(
                f"The certificate of {urlsplit(uri).netloc} is not trusted ({_innermost(error)}). "
                "Check this machine's clock, its root certificates and its proxy."
            ) from error
        except requests.exceptions.RequestException as error:
            raise Passing(_cause(error, content)) from error
        self._judge(answer.status_code, bytes(content))
        return httplib2.Response({**answer.headers, "status": str(answer.status_code)}), bytes(
            content
        )

    def _session(self) -> requests.Session:
        if not hasattr(self._of_thread, "session"):
            self._of_thread.session = requests.Session()
        return self._of_thread.session

    def _judge(self, status: int, content: bytes) -> None:
        """Raise `Passing` for an answer that may be another at the next attempt."""
        if status < 400:
            return
        said = reason(content)
        crowded = status == 429 or any(
            word in content.decode(errors="replace").lower() for word in QUOTA
        )
        if crowded or status in PASSING:
            known = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
            raise Passing(
                f"the server answered {status} {known}: {said}".rstrip(": "),
                advice=SLOWER if crowded else "",
            )


def reason(content: bytes) -> str:
    """Return the words of an error that Google sent, or nothing where it sent another form."""
    try:
        told: Any = json.loads(content)
        return str(told["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _cause(error: requests.exceptions.RequestException, content: bytearray) -> str:
    """Say what became of a request."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in f"{error}".lower():
        return f"no answer in time, after {len(content):,} bytes of it"
    if content or isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"the connection was cut after {len(content):,} bytes of the answer"
    return f"no connection ({_innermost(error)})"


def _innermost(error: BaseException) -> str:
    """Return what the first of a chain of errors said: the others show addresses of objects."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error)
