"""What becomes of a read, and of an epoch, when storage fails?

Run: `python benchmarks/faults.py SHARDS`, a small local folder of shards, read once per fault.

The faults, the server that makes them, and the short patience (3 s instead of 180 s without a byte)
are those of the tests.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from report import table, write_result

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.errors import Ssl4eoError
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.setup import Reading

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fault_cases import (  # pyright: ignore[reportMissingImports]
    ENDED,
    IMPATIENT,
    SURVIVED,
    Case,
)
from fault_server import http_server  # pyright: ignore[reportMissingImports]

QUESTION = "What becomes of a read, and of an epoch, when storage fails?"

DATA = bytes(range(251)) * 400
Epoch = list[tuple[list[str], list[int]]]


def read(folder: Path, case: Case) -> str:
    """Read a range of one object, and say what came of it."""
    if not case.checked:
        return "not seen by a read: the loader's CRC-32C does"
    with http_server(folder) as server:
        store = Store.open(server.url, retry=IMPATIENT)
        case.order(server, only="a.tar")
        try:
            data = store.read_range("a.tar", start=1000, end=100_000)
        except Ssl4eoError as error:
            return told(error, server.url)
    assert data == DATA[1000:100_000], case.name
    return f"survived, retries: {store.counters.retries}"


def epoch(url: str) -> tuple[Epoch, float]:
    """Return keys and a sum over the pixels of every batch, and the retries."""
    with StreamLoader(
        url, views=MoCoViews(size=32), batch_size=4, reading=Reading(connections=1, retry=IMPATIENT)
    ) as loader:
        batches = [(b.keys, [int(view.sum()) for view in b.views]) for b in loader]
        return batches, loader.stats()["retries"]


def stream(shards: Path, case: Case, undisturbed: Epoch) -> str:
    """Go over the shards once, and say what came of it."""
    with http_server(shards) as server:
        case.order(server, only=".tar")
        try:
            batches, retries = epoch(server.url)
        except Ssl4eoError as error:
            return told(error, server.url)
    assert batches == undisturbed, case.name
    return f"every sample once, retries: {retries:.0f}"


def told(error: Ssl4eoError, url: str) -> str:
    """Return a message as a cell of the table, without this machine's port."""
    return str(error).replace(url, "http://…").replace("|", "/")


def main() -> None:
    """Order every fault, and write the table."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("shards", type=Path, help="a local folder of shards")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # they are counted in the table
    undisturbed, _ = epoch(str(options.shards))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.tar").write_bytes(DATA)
        for case in [*SURVIVED, *ENDED]:
            rows.append(
                {
                    "fault": case.name,
                    "a read": read(Path(folder), case),
                    "an epoch": stream(options.shards, case, undisturbed),
                }
            )
            print(case.name, file=sys.stderr)
    print(table(rows))
    print(write_result("faults", question=QUESTION, repeats=1, rows=rows))


if __name__ == "__main__":
    main()
