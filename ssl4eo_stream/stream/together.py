"""Ranks that begin together or not at all: where one cannot, every one says why."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ssl4eo_stream import distributed
from ssl4eo_stream.errors import ShardError, Ssl4eoError

T = TypeVar("T")


def on_every_rank(function: Callable[[], T]) -> T:
    """Return what a function returns here, once it has returned on every rank.

    Raises:
        Ssl4eoError: It failed here, with this error, or on another rank, which is named.
        ValueError: The same.
    """
    error: Ssl4eoError | ValueError | None = None
    result: T | None = None
    try:
        result = function()
    except (Ssl4eoError, ValueError) as caught:
        error = caught
    failures = distributed.gather(error)
    if error is not None:
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise type(failure)(f"Rank {rank} stopped: {failure}")
    return result  # pyright: ignore[reportReturnType]


def agree(mine: Mapping[str, Any], *, rank: int) -> None:
    """Stop every rank with a message where one would wait for ever.

    Raises:
        ShardError: Ranks see other data, or are set up differently.
    """
    everyone = distributed.gather(dict(mine))
    for other, theirs in enumerate(everyone):
        for name, value in mine.items():
            if theirs[name] != value:
                raise ShardError(
                    f"Rank {other} has another {name} than rank {rank}: {theirs[name]} and "
                    f"{value}. All ranks need the same shards, selection, seed, batch and workers."
                )
