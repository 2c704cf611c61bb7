"""What storage does wrong, and what must come of it: one table for tests and the benchmark."""

from dataclasses import dataclass

from fault_server import FOREVER, Fault

from ssl4eo_stream.retry import RetryPolicy

IMPATIENT = RetryPolicy(
    connect_seconds=2.0, stall_seconds=1.0, attempt_seconds=20.0, min_bytes_per_second=20_000.0,
    first_wait_seconds=0.01, longest_wait_seconds=0.1, give_up_seconds=3.0, warn_seconds=0.0,
)  # fmt: skip
"""The defaults' proportions, fast enough for tests."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault."""

    name: str
    faults: tuple[dict, ...]
    retries: int = 0
    """New attempts it takes to survive it."""
    message: str = ""
    """Expression that the error matches; empty where it is survived."""
    attempts: int = 1
    """Requests for the object, at least, until it is given up."""
    kind: str = "StorageError"
    """The error."""
    checked: bool = True
    """Whether the store itself notices; the loader always does."""

    def order(self, server, *, only):
        """Tell a server to make the faults for paths with `only` in them."""
        server.faults[:] = [Fault(**{"only": only} | fault) for fault in self.faults]


def case(name, *faults, **expected):
    return Case(name=name, faults=faults, **expected)


def refused(code, message):
    fault = {"kind": "status", "code": code, "times": FOREVER}
    return case(f"{code} always", fault, message=f"answered {code} .*{message}")


def gone_for_good(name, message, **fault):
    message = rf"gave up after \d+ attempts in .*{message}.*Check the network"
    return case(name, {"times": FOREVER, **fault}, message=message, attempts=3)


SURVIVED = [
    case("503 twice", {"kind": "status", "times": 2}, retries=2),
    case("429 twice", {"kind": "status", "times": 2, "code": 429}, retries=2),
    case("500 three times", {"kind": "status", "times": 3, "code": 500}, retries=3),
    case("connection reset twice", {"kind": "reset", "times": 2}, retries=2),
    case("request never answered", {"kind": "silent"}, retries=1),
    case("body cut after 2,000 bytes, twice", {"kind": "cut", "times": 2, "after": 2000},
         retries=2),
    case("body cut six times", {"kind": "cut", "times": 6}, retries=6),
    case("503, then cut, then 503", {"kind": "status"}, {"kind": "cut"},
         {"kind": "status"}, retries=3),
    case("body stalls in the middle", {"kind": "stall"}, retries=1),
    case("body trickles at 2 kB/s", {"kind": "trickle", "after": 3000}, retries=1),
    case("Content-Length 500 bytes too large", {"kind": "longer", "after": 500}),
    case("Content-Length 500 bytes too small", {"kind": "shorter", "after": 500}, retries=1),
    case("another ETag from the next request on", {"kind": "replaced", "times": FOREVER,
                                                   "skip": 1}),
    case("a bit in each 1,000 bytes flipped, once", {"kind": "flip"}, checked=False),
]  # fmt: skip
ENDED = [
    gone_for_good("503 always", "answered 503 Service Unavailable", kind="status"),
    gone_for_good("connection reset always", "connection broke", kind="reset"),
    gone_for_good("trickles at 2 kB/s always", "only [0-9,]+ bytes/s came", kind="trickle",
                  after=3000),
    gone_for_good("Content-Length too small always", "shorter than announced", kind="shorter",
                  after=2000),
    refused(404, "Check the URL"),
    refused(401, "Set credentials in the environment"),
    refused(403, "skip_signature"),
    refused(400, "Check region"),
    refused(416, "cut or replaced"),
    case("object has lost its second half", {"kind": "truncated", "times": FOREVER},
         message="ends .*early; it was cut or replaced|The object ends before these bytes"),
    case("cut, then another ETag", {"kind": "cut"}, {"kind": "replaced", "times": FOREVER},
         message="answered 412 .*replaced while it was read", attempts=2),
    case("cut, then another ETag, If-Match not heeded", {"kind": "cut"},
         {"kind": "unheeded", "times": FOREVER}, message="replaced while it was read",
         attempts=2),
    case("byte ranges not heeded", {"kind": "whole", "times": FOREVER},
         message=r"must answer byte ranges \(206\)"),
    case("a bit in each 1,000 bytes flipped, always", {"kind": "flip", "times": FOREVER},
         checked=False, message="verify", kind="ShardError"),
]  # fmt: skip
