"""What lies in a folder of shards, and what of it belongs to no data set."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.shard.parts import PARTS
from ssl4eo_stream.store import Store
from ssl4eo_stream.tars import list_objects

STAGING = ".repair-"
"""How the folders begin in which `repair` makes shards again."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong."""

    file: str
    """Which file of the data set."""
    kind: Literal["manifest", "index", "shard", "unlisted", "leftover"]
    """What that file is."""
    problem: str
    """What is wrong with it."""
    remedy: str
    """What to do about it."""


def names_in(store: Store) -> list[str] | None:
    """Return what lies in a folder; None where that can't be listed.

    Raises:
        StorageError: It is a local folder without permission.
    """
    if store.folder is not None:
        try:
            return sorted(path.name for path in store.folder.iterdir())
        except OSError as error:
            raise StorageError(
                f"{store.url} can't be listed: {error}. Check its permissions."
            ) from error
    if store.url.startswith(("http://", "https://")):
        return None
    try:
        return list(list_objects(store))
    except StorageError as error:
        logger.warning("Files that belong to no data set are not looked for: %s", error)
        return None


def strangers(names: Sequence[str], *, known: set[str]) -> Iterator[Problem]:
    """Yield files that no reader will ever look at."""
    for name in names:
        if name == PARTS or name.startswith(STAGING) or (name[0] == "." and ".tmp-" in name):
            yield Problem(
                file=name,
                kind="leftover",
                problem="it was left by a build or repair that was stopped",
                remedy="Run that again, or remove it",
            )
        elif name.endswith(".tar") and name not in known:
            yield Problem(
                file=name,
                kind="unlisted",
                problem="it is not of this data set",
                remedy="Remove it, or run ssl4eo-shard repair, which puts it aside",
            )
