"""Where to look: a plan is a list of locations, none nearer to another than a limit.

A plan of a seed is the beginning of every longer plan of it, so what has to be replaced is taken
from the tail of a plan that was made longer than is wanted.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ssl4eo_stream.collect.areas import Area
from ssl4eo_stream.collect.candidates import DECIMALS, Candidates
from ssl4eo_stream.collect.separation import Separation
from ssl4eo_stream.errors import PlanError, StorageError

PATIENCE = 200_000
"""Candidates in a row that are turned away before a plan is held to be full."""
TOO_NEAR, BESIDE, SEA = "too near another", "outside the polygon", "in the sea"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Locations, in the order in which they are to be collected."""

    ids: list[int]
    """Numbers from 0, or as given."""
    lon: Float64[np.ndarray, " n"]
    """Longitudes of the centres, degrees, [-180, 180), WGS84."""
    lat: Float64[np.ndarray, " n"]
    """Latitudes of the centres, degrees."""
    city: list[str]
    """The city each was drawn around, or empty."""
    candidates: int
    """Places that were looked at, up to the last one taken."""
    refused: dict[str, int]
    """Why others were not taken -> how many."""


def plan(
    source: Iterator[Candidates],
    *,
    n: int | None,
    min_separation_metres: float,
    land: Area | None = None,
    on_taken: Callable[[int], object] = lambda _: None,
) -> Plan:
    """Take the first `n` candidates that fit; those that do not are counted by reason.

    Args:
        source: The candidates.
        n: How many locations; None takes all of a list that ends.
        min_separation_metres: No two are nearer; 0 to 100,000.
        land: Where given, candidates beside it are refused.
        on_taken: Called with numbers of locations as they are taken.

    Raises:
        PlanError: There is no room for so many, or the list ends before.
    """
    separation = Separation(min_separation_metres)
    ids: list[int] = []
    city: list[str] = []
    lon, lat = [np.empty(0)], [np.empty(0)]
    refused: Counter[str] = Counter()
    candidates = since_taken = 0
    for block in source:
        reasons = np.where(block.inside, "", BESIDE).astype(object)
        if land is not None:
            reasons[block.inside & ~land.holds(block.lon, block.lat)] = SEA
        fits = np.flatnonzero(reasons == "")
        near = ~separation.admit(block.lon[fits], block.lat[fits])
        reasons[fits[near]] = TOO_NEAR
        taken = np.flatnonzero(reasons == "")
        if n is not None and taken.size >= n - len(ids):
            taken = taken[: n - len(ids)]
            reasons = reasons[: taken[-1] + 1]
        first = len(ids)
        given = block.ids or range(first, first + taken.size)
        ids += [given[i] for i in taken] if block.ids else given
        city += [block.city[i] for i in taken]
        lon.append(block.lon[taken])
        lat.append(block.lat[taken])
        refused.update(reason for reason in reasons.tolist() if reason)
        candidates += reasons.size
        on_taken(taken.size)
        if len(ids) == n:
            break
        since_taken = since_taken + reasons.size if not taken.size else 0
        if since_taken >= PATIENCE:
            break
    if n is not None and len(ids) < n:
        raise PlanError(
            f"--n {n}: only {len(ids)} locations were found among {candidates} candidates "
            f"({told(refused)}). Ask for fewer, lessen --min-separation, or look over more ground."
        )
    return Plan(
        ids=ids, lon=np.concatenate(lon), lat=np.concatenate(lat), city=city,
        candidates=candidates, refused=dict(refused),
    )  # fmt: skip


def told(refused: Counter[str] | dict[str, int]) -> str:
    """Return reasons and how often, the most frequent first."""
    counts = Counter(refused).most_common()
    return ", ".join(f"{reason} {count}" for reason, count in counts) or "none refused"


def write_plan(path: Path, made: Plan) -> None:
    """Write a plan as a CSV file with columns id, lon, lat, city; it is there whole or not at all.

    Raises:
        StorageError: It can't be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("id", "lon", "lat", "city"))
    rows.writerows(
        (number, f"{lon:.{DECIMALS}f}", f"{lat:.{DECIMALS}f}", city)
        for number, lon, lat, city in zip(
            made.ids, made.lon.tolist(), made.lat.tolist(), made.city, strict=True
        )
    )
    write_whole(path, text.getvalue().encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        StorageError: It can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path} can't be written: {error.strerror or error}. Name a file in a folder that is "
            "there and yours."
        ) from error
