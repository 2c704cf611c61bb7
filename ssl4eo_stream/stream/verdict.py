"""What bounds a stream, and what to do about it: pure arithmetic on `StreamLoader.stats`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Bound = Literal["trainer-bound", "fetch-bound", "decode-bound", "view-bound"]
"""Whom everybody waits for: the trainer, storage, the codec, or cropping and augmentation."""

KEEPS_UP = 0.05
"""Share of its time that a trainer may wait while the stream counts as fast enough: a run is then
at most 1 / (1 - 0.05) = 1.05 times as long as with data for nothing."""
DRY = 0.25
"""Share of the readers' time in fetch from which on bytes come too late. Fetching runs ahead on
threads of its own: from a page cache 3 % remain (benchmarks/loader.py); a quarter is time in
which a reader stood still with nothing to decode, which no faster codec gives back."""
NOT_VIEWS = frozenset({"fetch", "decode", "idle"})
"""Stages that are not part of making views; all others are, whatever a method calls them."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Where a stream stands."""

    bound: Bound
    """What decides its pace."""
    advice: str
    """What to do about it, in one sentence."""


def verdict(stats: Mapping[str, float]) -> Verdict | None:
    """Say what bounds a stream.

    A trainer that waits for less than a twentieth of its time is what everything else waits for.
    Otherwise the readers are: they are fetch-bound where a quarter of their working time goes by
    without bytes, else bound by the greater of decoding and everything that makes views.

    Args:
        stats: What `StreamLoader.stats` returned: shares 0-1. `share_*` are parts of the readers'
            working time, but `share_idle`, which is a part of all their time; `retries` is a count.

    Returns:
        The verdict, or None where no batch was handed out, so that nothing can be said.
    """
    shares = {
        name.removeprefix("share_"): value
        for name, value in stats.items()
        if name.startswith("share_")
    }
    if not shares.keys() - {"idle"}:
        return None
    if stats["wait_share"] <= KEEPS_UP:
        return _trainer_bound(shares.get("idle", 0.0))
    fetching, decoding = shares.get("fetch", 0.0), shares.get("decode", 0.0)
    if fetching >= DRY:
        return _fetch_bound(stats.get("retries", 0))
    if decoding >= sum(value for stage, value in shares.items() if stage not in NOT_VIEWS):
        return Verdict(
            bound="decode-bound",
            advice="Give more workers while there are idle cores; then shards of a lower quality "
            "(jpeg:75 decodes in three quarters of the time of jpeg:90) or fewer bands.",
        )
    return Verdict(
        bound="view-bound",
        advice="Give more workers while there are idle cores; then make views on the device, or "
        "smaller ones.",
    )


def _trainer_bound(idle: float) -> Verdict:
    fewer = f" The readers idle {100 * idle:.0f} % of their time: fewer workers would do." * (
        idle >= 0.5
    )
    return Verdict(
        bound="trainer-bound", advice=f"Nothing to do: the stream keeps up with the trainer.{fewer}"
    )


def _fetch_bound(retries: float) -> Verdict:
    if retries:
        return Verdict(
            bound="fetch-bound",
            advice=f"Storage failed {retries:.0f} requests, which were retried: look at its limits "
            "and at the network first, or keep a cache on local disk.",
        )
    return Verdict(
        bound="fetch-bound",
        advice="Give more workers or connections if the link has room; if not, keep a cache on "
        "local disk, or use shards of a lower quality.",
    )
