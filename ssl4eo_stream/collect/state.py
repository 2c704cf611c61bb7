"""What became of each location of a plan: an SQLite file that any number of processes may share.

Locations are claimed in the plan's order, the next one only while those that are done, claimed or
failed are fewer than are wanted. So what has been looked at in the end is the shortest beginning of
the plan that has as many good locations, however many worked at it and in whatever order they came
to an end: a location that may still turn out well holds its place. A failed one, which the service
did not answer for, holds it too, until the next run tries it again.

The journal is SQLite's default, not WAL, which needs memory that all processes share and so does
not work over a network file system; locks have to work there.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssl4eo_stream.collect.alive import Presence
from ssl4eo_stream.collect.taken import Place
from ssl4eo_stream.errors import PlanError, StorageError

VERSION = 1
WAIT_SECONDS = 60.0
"""How long another process may hold the file; it does for milliseconds."""
Ending = Literal["done", "rejected", "failed"]
Run = Callable[..., sqlite3.Cursor]
"""Executes a statement with its values."""
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE processes (name TEXT PRIMARY KEY, host TEXT NOT NULL, heard REAL NOT NULL);
CREATE TABLE locations (
    position INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE, status TEXT NOT NULL,
    reason TEXT NOT NULL, process TEXT NOT NULL, time REAL NOT NULL);
CREATE INDEX open_locations ON locations (status, position)
    WHERE status IN ('pending', 'claimed', 'failed');
CREATE TABLE counts (status TEXT PRIMARY KEY, number INTEGER NOT NULL);
INSERT INTO counts VALUES
    ('pending', 0), ('claimed', 0), ('done', 0), ('rejected', 0), ('failed', 0);
CREATE TRIGGER inserted AFTER INSERT ON locations BEGIN
    UPDATE counts SET number = number + 1 WHERE status = NEW.status;
END;
CREATE TRIGGER updated AFTER UPDATE OF status ON locations BEGIN
    UPDATE counts SET number = number - 1 WHERE status = OLD.status;
    UPDATE counts SET number = number + 1 WHERE status = NEW.status;
END;
"""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many locations of the plan are in which state."""

    done: int
    """Collected."""
    rejected: int
    """Without images that were asked for."""
    failed: int
    """Not answered for."""
    claimed: int
    """Being worked at, by any process."""
    pending: int
    """Claimed once, and to be claimed again."""


class State:
    """What became of each location; calls may come from threads.

    Args:
        path: The file; made if it is not there, in a folder that is.
        places: The plan, or the part of it that this file is about.
        settings: What decides the result, as JSON: the next run's must be the same.
        wanted: How many locations to collect.

    Raises:
        PlanError: The file is about another plan, or other settings.
        StorageError: It can't be read or written.
    """

    def __init__(
        self, path: Path, *, places: Sequence[Place], settings: Mapping[str, Any], wanted: int
    ) -> None:
        self._path, self._places, self._wanted = path, places, wanted
        self._mutex = threading.Lock()
        self._presence = Presence(path.parent)
        try:
            self._connection = sqlite3.connect(
                path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            self._presence.close()
            raise self._told(error) from error
        try:
            with self._transaction() as run:
                if not run("SELECT name FROM sqlite_master").fetchall():
                    for statement in _statements(SCHEMA):
                        run(statement)
                    self._introduce(run, settings)
                self._compare(run, settings)
                run("INSERT INTO processes VALUES (?, ?, ?)", *self._here())
                run("UPDATE locations SET status = 'pending' WHERE status = 'failed'")
            self.release_dead()
        except BaseException:
            self.close()
            raise

    def claim(self) -> Place | Literal["later", "over"]:
        """Return the next location to work at, now this process's.

        Or `later`, where there is none but may be once what is in work is rejected; or `over`.
        """
        with self._transaction() as run:
            counts = self._counts(run)
            if counts.done + counts.claimed + counts.failed < self._wanted:
                released, last = run(
                    "SELECT (SELECT MIN(position) FROM locations WHERE status = 'pending'), "
                    "(SELECT MAX(position) FROM locations)"
                ).fetchone()
                position = 0 if last is None else last + 1
                if released is not None:
                    run(
                        "UPDATE locations SET status = 'claimed', process = ?, time = ? "
                        "WHERE position = ?",
                        self._presence.name, time.time(), released,
                    )  # fmt: skip
                    return self._places[released]
                if position < len(self._places):
                    run(
                        "INSERT INTO locations VALUES (?, ?, 'claimed', '', ?, ?)",
                        position, self._places[position].id, self._presence.name, time.time(),
                    )  # fmt: skip
                    return self._places[position]
            return "later" if counts.claimed else "over"

    def finish(self, place: Place, status: Ending, *, reason: str = "") -> bool:
        """Say what became of a claimed location; False, and nothing, if it is another's by now."""
        with self._transaction() as run:
            changed = run(
                "UPDATE locations SET status = ?, reason = ?, time = ? WHERE id = ? "
                "AND status = 'claimed' AND process = ?",
                status, reason, time.time(), place.id, self._presence.name,
            )  # fmt: skip
            return changed.rowcount == 1

    def counts(self) -> Counts:
        """Return how many locations are in which state."""
        with self._transaction() as run:
            return self._counts(run)

    def ids(self, status: Ending) -> set[int]:
        """Return the ids of locations that ended so."""
        with self._transaction() as run:
            return {i for (i,) in run("SELECT id FROM locations WHERE status = ?", status)}

    def reasons(self, status: Ending) -> dict[str, int]:
        """Return why locations ended so -> how many, the most frequent first."""
        with self._transaction() as run:
            return dict(
                run(
                    "SELECT reason, COUNT(*) AS number FROM locations WHERE status = ? "
                    "GROUP BY reason ORDER BY number DESC, reason", status,
                ).fetchall()
            )  # fmt: skip

    def say_alive(self) -> None:
        """Let other machines know that this process is at work."""
        with self._transaction() as run:
            run("INSERT OR REPLACE INTO processes VALUES (?, ?, ?)", *self._here())

    def release_dead(self) -> None:
        """Let be claimed again what processes that have ended had claimed."""
        with self._transaction() as run:
            now = time.time()
            for name, host, heard in run("SELECT * FROM processes").fetchall():
                if self._presence.is_dead(name, host=host, silent_seconds=now - heard):
                    self._release(run, name)
                    self._presence.forget(name)

    def close(self) -> None:
        """Let go of everything; what is still claimed may be claimed by others."""
        with self._mutex:
            try:
                self._release(self._execute, self._presence.name)
            except sqlite3.Error:
                pass  # whoever comes next finds this process dead, and does it
            finally:
                self._connection.close()
                self._presence.close()

    def _introduce(self, run: Run, settings: Mapping[str, Any]) -> None:
        about = {"version": VERSION, "settings": settings, "plan": self._digest(len(self._places)),
                 "length": len(self._places)}  # fmt: skip
        for key, value in about.items():
            run("INSERT INTO about VALUES (?, ?)", key, json.dumps(value))

    def _compare(self, run: Run, settings: Mapping[str, Any]) -> None:
        about = {k: json.loads(v) for k, v in run("SELECT key, value FROM about").fetchall()}
        if about["version"] != VERSION:
            raise PlanError(
                f"{self._path} is of version {about['version']}, this program of {VERSION}. Go on "
                "with the one that began it, or give another DEST."
            )
        asked = json.loads(json.dumps(settings))
        if different := [
            f"{key} {about['settings'].get(key)} (asked for now: {asked.get(key)})"
            for key in sorted({*about["settings"], *asked})
            if about["settings"].get(key) != asked.get(key)
        ]:
            raise PlanError(
                f"{self._path} was begun with {', '.join(different)}. Ask for the same again, or "
                "give another DEST."
            )
        length = about["length"]
        if len(self._places) < length or self._digest(length) != about["plan"]:
            raise PlanError(
                f"{self._path} was begun with another plan, of {length} locations; this one has "
                f"{len(self._places)} and does not begin with those. Give the same plan, or a "
                "longer one of the same seed, or another DEST."
            )
        if len(self._places) > length:
            for key, value in (
                ("length", len(self._places)), ("plan", self._digest(len(self._places))),
            ):  # fmt: skip
                run("UPDATE about SET value = ? WHERE key = ?", json.dumps(value), key)

    def _digest(self, length: int) -> str:
        rows = (f"{place.id} {place.lon!r} {place.lat!r}\n" for place in self._places[:length])
        return hashlib.sha256("".join(rows).encode()).hexdigest()

    def _here(self) -> tuple[str, str, float]:
        return self._presence.name, self._presence.host, time.time()

    @staticmethod
    def _counts(run: Run) -> Counts:
        return Counts(**dict(run("SELECT status, number FROM counts").fetchall()))

    @staticmethod
    def _release(run: Run, name: str) -> None:
        run(
            "UPDATE locations SET status = 'pending' WHERE status = 'claimed' AND process = ?", name
        )
        run("DELETE FROM processes WHERE name = ?", name)

    def _execute(self, statement: str, *values: str | int | float) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[Run]:
        """Hold the file alone for a few statements."""
        with self._mutex:
            try:
                self._execute("BEGIN IMMEDIATE")
                try:
                    yield self._execute
                except BaseException:
                    self._connection.rollback()
                    raise
                self._execute("COMMIT")
            except sqlite3.Error as error:
                raise self._told(error) from error

    def _told(self, error: sqlite3.Error) -> StorageError:
        return StorageError(
            f"{self._path}: {error}. It must be in a folder that is yours, on a disk with room and "
            "a file system with locks; if it is damaged, give another DEST."
        )


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script one by one: all at once they could not be undone."""
    statement = ""
    for line in script.splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
