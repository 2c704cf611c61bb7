"""Where the readers' time goes, by stage, and what went through."""

import time
from dataclasses import dataclass, field

IDLE = "idle"
"""The stage of a reader that waits to be asked: the trainer has batches enough."""


@dataclass
class Clock:
    """Seconds by stage, and counts."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds spent in it."""
    samples: int = 0
    """Samples rendered."""
    num_bytes: int = 0
    """Bytes of members read."""
    requests: int = 0
    """Requests to the stores."""
    retries: int = 0
    """Requests that had to be made again."""
    replaced: int = 0
    """Samples that another one stood in for."""
    cache_hits: int = 0
    """Blocks found on local disk."""
    cache_misses: int = 0
    """Blocks that were not there."""
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Charge the time since the last lap to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def add(self, other: "Clock") -> None:
        """Add what another clock measured."""
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def stats(self, *, elapsed_seconds: float, wait_seconds: float) -> dict[str, float]:
        """Return rates, counts and shares over a window of time; see `StreamLoader.stats`."""
        idle = self.seconds.get(IDLE, 0.0)
        busy = {stage: seconds for stage, seconds in self.seconds.items() if stage != IDLE}
        working = sum(busy.values())
        elapsed = max(elapsed_seconds, 1e-9)
        return {
            "samples_per_second": self.samples / elapsed,
            "megabytes_per_second": self.num_bytes / 1e6 / elapsed,
            "wait_share": wait_seconds / elapsed,
            "bytes_per_sample": self.num_bytes / max(self.samples, 1),
            **{name: float(getattr(self, name)) for name in COUNTS[2:]},
            "share_idle": idle / (idle + working or 1.0),
            **{f"share_{stage}": seconds / (working or 1.0) for stage, seconds in busy.items()},
        }


COUNTS = (
    "samples", "num_bytes", "requests", "retries", "replaced", "cache_hits", "cache_misses",
)  # fmt: skip
