"""A folder over HTTP, on a link of a given latency and bandwidth made on loopback.

Run: `python benchmarks/link.py FOLDER --latency-milliseconds 20 --megabytes-per-second 200` serves
until its standard input ends, and prints its URL first. Other benchmarks use `link(...)`.

The server is a process of its own. Every request waits for the latency before its first byte, and
all answers together keep to the bandwidth. Ranges, HEAD and kept connections work; bodies go out
through sendfile, so that serving takes little of the machine that is being measured.
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PIECE_BYTES = 256 << 10
"""Sent at a time; the link is shared in turns of so much."""
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Meter:
    """Says when bytes may leave so that no more than a rate do, whoever asks.

    Args:
        bytes_per_second: The link's bandwidth.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_time = 0.0
        self._lock = threading.Lock()

    def reserve(self, num_bytes: int, *, now: float) -> float:
        """Return how many seconds from `now` the link needs until these bytes are through."""
        with self._lock:
            self._free_time = max(self._free_time, now) + num_bytes / self._bytes_per_second
            return self._free_time - now


class Server(ThreadingHTTPServer):
    """Serves a folder over the link.

    Args:
        folder: What to serve.
        latency_seconds: From a request to the first byte of its answer.
        bytes_per_second: Of all answers together.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, *, latency_seconds: float, bytes_per_second: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder.resolve()
        self.latency_seconds = latency_seconds
        self.meter = Meter(bytes_per_second)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as its base
        """Report what goes wrong, but a client that hangs up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        time.sleep(self.server.latency_seconds)
        path = self.server.folder / self.path.split("?")[0].lstrip("/")
        if ".." in path.parts or not path.is_file():
            self.send_error(404)
            return
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            start, stop = 0, status.st_size
            wanted = RANGE.fullmatch(self.headers.get("Range", ""))
            if wanted:
                start = int(wanted[1])
                stop = min(int(wanted[2]) + 1, stop) if wanted[2] else stop
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{status.st_size}")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{status.st_mtime_ns:x}-{status.st_size:x}"')
            self.send_header("Last-Modified", self.date_time_string(status.st_mtime))
            self.end_headers()
            self.wfile.flush()
            if with_body:
                self._send(file.fileno(), start, stop)

    def _send(self, descriptor: int, start: int, stop: int) -> None:
        while start < stop:
            piece = min(PIECE_BYTES, stop - start)
            time.sleep(self.server.meter.reserve(piece, now=time.monotonic()))
            while piece:
                try:
                    sent = os.sendfile(self.connection.fileno(), descriptor, start, piece)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # nobody wants the rest
                    return
                start, piece = start + sent, piece - sent


@contextmanager
def link(
    folder: Path, *, latency_seconds: float = 0.02, bytes_per_second: float = 200e6
) -> Iterator[str]:
    """Serve a folder from a process of its own, and yield its URL.

    Args:
        folder: What to serve.
        latency_seconds: From a request to the first byte of its answer.
        bytes_per_second: Of all answers together.
    """
    process = subprocess.Popen(
        [
            sys.executable, __file__, str(folder),
            "--latency-milliseconds", str(1000 * latency_seconds),
            "--megabytes-per-second", str(bytes_per_second / 1e6),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"The server of {folder} ended with {process.wait()}.")
        yield url
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description="Serve a folder over a link made on loopback.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency-milliseconds", type=float, default=20.0)
    parser.add_argument("--megabytes-per-second", type=float, default=200.0)
    options = parser.parse_args()
    with Server(
        options.folder,
        latency_seconds=options.latency_milliseconds / 1000,
        bytes_per_second=options.megabytes_per_second * 1e6,
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
