"""Samples that could not be had: told, listed, and no more of them than the budget allows."""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.stream.reader import Replaced

logger = logging.getLogger(__name__)


class Quarantine:
    """Counts the replaced samples of one rank.

    Args:
        path: JSON Lines file that each replaced sample is appended to; several ranks of one node
            may share it. None for no list.
        budget: Part of an epoch's samples that may be replaced, 0-1.
        samples: Samples of an epoch on this rank.
        rank: This rank.
    """

    def __init__(self, path: Path | None, *, budget: float, samples: int, rank: int) -> None:
        self._path, self._budget, self._samples, self._rank = path, budget, samples, rank
        self._epoch = -1
        self._count = 0

    def add(self, replaced: Sequence[Replaced], *, epoch: int) -> None:
        """Note what a batch had replaced.

        Raises:
            ShardError: The epoch's budget is spent.
        """
        if epoch != self._epoch:
            self._epoch, self._count = epoch, 0
        if not replaced:
            return
        self._count += len(replaced)
        for each in replaced:
            logger.warning("Location %s replaced by %s: %s", location_key(each.id),
                           location_key(each.by), each.reason)  # fmt: skip
        if self._path:
            lines = [
                json.dumps({
                    "time": datetime.now(UTC).isoformat(timespec="seconds"),
                    "rank": self._rank, "epoch": epoch, "id": location_key(each.id),
                    "replaced_by": location_key(each.by), "reason": each.reason,
                })
                for each in replaced
            ]  # fmt: skip
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))  # one write: lines stay whole
        if self._count > self._budget * self._samples:
            where = f" {self._path} lists them." if self._path else ""
            raise ShardError(
                f"{self._count} of the {self._samples} samples of epoch {epoch} on rank "
                f"{self._rank} had to be replaced, more than the budget of {self._budget:.2%}."
                f"{where} The last: {replaced[-1].reason}"
            )
