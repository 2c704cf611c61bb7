"""Real servers on loopback: S3 (moto, SeaweedFS), and HTTP with byte ranges and faults to order."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY, SECRET, BUCKET = "loopback-key", "loopback-secret-never-shown", "ssl4eo"


def free_port(below=55_000):
    """A port that nobody listens on (SeaweedFS adds 10,000 for its second one)."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port < below:
            return port


@dataclass(frozen=True, kw_only=True)
class S3:
    """A running S3 server."""

    endpoint: str

    def environment(self):
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def client(self):
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 2}, s3={"addressing_style": "path"}),
        )  # fmt: skip

    def upload(self, folder, prefix):
        client = self.client()
        for path in sorted(Path(folder).iterdir()):
            if path.is_file():
                client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")
        return f"s3://{BUCKET}/{prefix}"


def _wait_for_bucket(server, process, log, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            server.client().create_bucket(Bucket=BUCKET)
            return
        except (BotoCoreError, ClientError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the S3 server did not start:\n{Path(log).read_text()[-3000:]}"
                ) from None
            time.sleep(0.2)


@contextmanager
def s3_server(kind, folder):
    """Run moto or SeaweedFS in a process of its own, with an empty bucket."""
    port = free_port()
    log = Path(folder) / "server.log"
    bin_folder = Path(sys.executable).parent
    if kind == "moto":
        command = [str(bin_folder / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    else:
        identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                    "actions": ["Admin", "Read", "Write", "List"]}  # fmt: skip
        config = Path(folder) / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        command = [
            str(bin_folder / "weed"), "server", f"-dir={folder}", "-ip=127.0.0.1",
            f"-master.port={free_port()}", f"-volume.port={free_port()}",
            f"-filer.port={free_port()}", "-s3", f"-s3.port={port}", f"-s3.config={config}",
            "-master.volumeSizeLimitMB=64",
        ]  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
        )  # fmt: skip
    server = S3(endpoint=f"http://127.0.0.1:{port}")
    try:
        _wait_for_bucket(server, process, log)
        yield server
    finally:
        process.kill()  # SeaweedFS takes its time over SIGTERM
        process.wait()


def has_seaweedfs():
    return shutil.which("weed", path=str(Path(sys.executable).parent)) is not None


@dataclass
class Http:
    """A running HTTP server, and the faults it has been told to make."""

    url: str
    requests: Counter = field(default_factory=Counter)
    """Path -> times it was asked for."""
    unavailable: int = 0
    """Answer the next so many requests with 503."""
    cut: int = 0
    """Break the next so many bodies off in the middle."""


@contextmanager
def http_server(folder):
    """Serve a folder with byte ranges."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            name = self.path.lstrip("/").split("?")[0]
            state.requests[name] += 1
            if state.unavailable > 0:
                state.unavailable -= 1
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path = Path(folder) / name
            if not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = path.read_bytes()
            total, start, status = len(data), 0, 200
            if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start = int(wanted[1])
                stop = min(int(wanted[2]) + 1, total) if wanted[2] else total
                data, status = data[start:stop], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{total}"')
            self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{total}")
            self.end_headers()
            if not body:
                return
            if state.cut > 0 and len(data) > 1000:
                state.cut -= 1
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = Http(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
