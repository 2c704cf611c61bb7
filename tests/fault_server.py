"""A web server on loopback that serves a folder with byte ranges, and fails as it is told.

It speaks plain HTTP and as much of S3 (path style) as reading takes: `http://host/name` and, with
its URL as endpoint, `s3://ssl4eo/name` are the same object.
"""

import re
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

BUCKET = "ssl4eo"
FOREVER = 10**9
HANG_SECONDS = 60
SMALLEST_BODY = 1000
"""Bodies below this are left alone by faults that hurt bodies."""

Kind = Literal[
    "status",  # answers with `code`
    "reset",  # the connection is reset before any answer
    "silent",  # takes the request, and never answers
    "cut",  # breaks the body off behind `after` bytes
    "stall",  # sends nothing behind `after` bytes
    "trickle",  # sends `after` bytes at once, the rest with `pace` bytes/s
    "longer",  # announces `after` bytes more than it sends
    "shorter",  # announces and sends `after` bytes less than the range it names
    "truncated",  # the object has lost its last `after` bytes
    "replaced",  # the object has another ETag; If-Match is heeded
    "unheeded",  # the same where the server knows no If-Match
    "flip",  # one bit in each thousand bytes is wrong
    "whole",  # ranges are not heeded: 200 with everything
]
BODY = {"cut", "stall", "trickle", "longer", "shorter", "flip", "whole"}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests for paths with `only` in them."""

    kind: Kind
    times: int = 1
    only: str = ""
    after: int | None = None  # where None means the middle of the body
    code: int = 503
    pace: int = 2000
    skip: int = 0  # requests that pass before it begins


@dataclass
class Http:
    """A running server, the faults it has been told to make, and what it was asked for."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    requests: Counter = field(default_factory=Counter)  # path -> times it was asked for
    ranges: list[tuple[str, str]] = field(default_factory=list)  # (path, Range header), in order
    signed: int = 0  # requests that brought credentials
    public: bool = True  # whether it answers requests that bring none
    connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, name, num_bytes):
        with self._lock:
            for fault in self.faults:
                if fault.times <= 0 or fault.only not in name:
                    continue
                if fault.kind in BODY and num_bytes < SMALLEST_BODY:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _left(self, kind):
        return sum(fault.times for fault in self.faults if fault.kind == kind)

    @property
    def unavailable(self):
        """How many requests will be answered with 503."""
        return self._left("status")

    @unavailable.setter
    def unavailable(self, times):
        self.faults.append(Fault("status", times=times))

    @property
    def cut(self):
        """How many bodies will break off in the middle."""
        return self._left("cut")

    @cut.setter
    def cut(self, times):
        self.faults.append(Fault("cut", times=times))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and a short body leave in one packet
    folder: Path
    state: Http
    closing: threading.Event

    def setup(self):
        super().setup()
        self.state.connections += 1

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        state = self.state
        name = self.path.lstrip("/").split("?")[0].removeprefix(f"{BUCKET}/")
        asked = self.headers.get("Range", "")
        signed = "Authorization" in self.headers or "X-Amz-Signature" in self.path
        state.requests[name] += 1
        state.ranges.append((name, asked))
        state.signed += signed
        path = self.folder / name
        data = path.read_bytes() if path.is_file() else b""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        start = int(wanted[1]) if wanted else 0
        stop = min(int(wanted[2]) + 1, len(data)) if wanted and wanted[2] else len(data)
        fault = state.next_fault(name, stop - start if self.command == "GET" else 0)
        kind = fault.kind if fault else None
        if kind == "status":
            return self.refuse(fault.code, "SlowDown" if fault.code == 503 else "")
        if kind in ("reset", "silent"):
            return self.hang_up(reset=kind == "reset")
        if not (signed or state.public):
            return self.refuse(403, "AccessDenied")
        if not path.is_file():
            return self.refuse(404, "NoSuchKey")
        if kind == "truncated":
            data = data[: -(fault.after or len(data) // 2)]
            stop = min(stop, len(data))
        etag = f'"{len(data)}{"-new" if kind in ("replaced", "unheeded") else ""}"'
        if self.headers.get("If-Match", etag) != etag and kind != "unheeded":
            return self.refuse(412, "PreconditionFailed")
        if start >= len(data) > 0:
            return self.refuse(416, "InvalidRange")
        if kind == "whole":
            wanted, start, stop = None, 0, len(data)
        body, after = data[start:stop], 0
        if fault:
            after = (len(body) // 2) if fault.after is None else fault.after
        if kind == "shorter":
            body = body[:-after]
        announced = len(body) + (after if kind == "longer" else 0)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(announced))
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.send_body(body, fault, after)
        return None

    def send_body(self, body, fault, after):
        kind = fault.kind if fault else None
        if kind == "flip":
            body = bytearray(body)
            body[::1000] = bytes(byte ^ 4 for byte in body[::1000])
        if kind not in ("cut", "stall", "trickle"):
            self.wfile.write(body)
        else:
            self.wfile.write(body[:after])
            self.wfile.flush()
        if kind == "trickle":
            for at in range(after, len(body), fault.pace // 20):
                if self.closing.wait(1 / 20):
                    break
                self.wfile.write(body[at : at + fault.pace // 20])
                self.wfile.flush()
        if kind in ("cut", "longer"):
            self.wfile.flush()
            self.hang_up(reset=True, now=True)
        if kind == "stall":
            self.hang_up(reset=False)

    def refuse(self, code, name):
        text = f"<?xml version='1.0'?>\n<Error><Code>{name}</Code></Error>".encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def hang_up(self, *, reset, now=False):
        """End the connection, at once where it is reset, else when nobody listens any more."""
        if not reset:
            deadline = time.monotonic() + HANG_SECONDS
            self.connection.settimeout(0.1)
            while not self.closing.is_set() and time.monotonic() < deadline:
                try:
                    if not self.connection.recv(1):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
        elif not now:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def finish(self):
        with suppress(OSError):  # where the other end has gone
            super().finish()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        pass  # clients that give up on a slow body are the point of it


@contextmanager
def http_server(folder, *, context=None):
    """Serve a folder, over TLS where a context is given."""
    closing = threading.Event()
    handler = type("Bound", (Handler,), {"folder": Path(folder), "closing": closing})
    server = Server(("127.0.0.1", 0), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    handler.state = Http(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield handler.state
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
