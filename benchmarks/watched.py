"""A command, watched while it runs: its memory and processor time, and the files it makes.

Memory is the sum of the resident memory of all its processes, read twenty times a second, so what
they share counts once for each: an upper bound.
"""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

INTERVAL_SECONDS = 0.05
LISTED_EVERY = 5
"""Looks from one list of processes to the next: listing costs milliseconds, which others lack."""


@dataclass(kw_only=True)
class Seen:
    """What was seen of a command."""

    seconds: float = 0.0
    """From its start to its end."""
    peak_bytes: int = 0
    """Most resident memory of all its processes together."""
    processes: int = 0
    """Most of them at a time."""
    files: int = 0
    """Most files in the folder at a time."""
    foreign: set[str] = field(default_factory=set)
    """Files seen in the folder that were not expected there."""
    cpu_seconds: float = 0.0
    """Processor time of all its processes."""
    main_cpu_seconds: float = 0.0
    """Processor time of the first process."""
    output: str = ""
    """What it printed."""


def watch(command: Sequence[str], *, cores: int, folder: Path, expected: re.Pattern[str]) -> Seen:
    """Run a command on the first cores that this process may use, and return what was seen of it.

    Args:
        command: What to run.
        cores: How many cores it gets.
        folder: Where it writes. Its temporary files go to `folder/tmp`.
        expected: Matches the paths in the folder that a file may have.

    Raises:
        RuntimeError: It failed.
    """
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    seen = Seen()
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            ["taskset", "-c", allowed, *command],
            stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"TMPDIR": str(temporary)},
        )  # fmt: skip
        root = psutil.Process(process.pid)
        everybody: list[psutil.Process] = []
        looks = 0
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        while not ended:
            if looks % LISTED_EVERY == 0:
                everybody = _family(root)
            looks += 1
            _look(everybody, folder, seen, expected=expected)
            time.sleep(INTERVAL_SECONDS)
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        seen.seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        seen.cpu_seconds = used.ru_utime + used.ru_stime
        output.seek(0)
        seen.output = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{seen.output}")
    return seen


def _family(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all that it started."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _look(
    everybody: list[psutil.Process], folder: Path, seen: Seen, *, expected: re.Pattern[str]
) -> None:
    """Take down what processes hold, the first one's time, and which files there are."""
    held, processes = 0, 0
    for process in everybody:
        try:
            held += process.memory_info().rss
            if process is everybody[0]:
                times = process.cpu_times()
                seen.main_cpu_seconds = times.user + times.system
        except psutil.NoSuchProcess:
            continue
        processes += 1
    files = [
        os.path.relpath(Path(place) / name, folder)
        for place, _, names in os.walk(folder)
        for name in names
    ]
    seen.peak_bytes, seen.processes = max(seen.peak_bytes, held), max(seen.processes, processes)
    seen.files = max(seen.files, len(files))
    seen.foreign.update(name for name in files if not expected.fullmatch(name))
