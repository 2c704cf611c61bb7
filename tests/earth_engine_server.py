"""A stand-in Earth Engine on loopback: the real client's protocol, over invented scenes.

It evaluates the graphs that our code sends, and refuses every function that it does not know, as
the real one does. Faults are made on demand.
"""

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ee
import numpy as np
import rasterio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from rasterio.transform import Affine
from rasterio.warp import transform
from shapely.geometry import Point, Polygon

from tests.earth_engine_catalog import COLLECTIONS, Catalog

SHIPPED = Path(ee.__file__).parent / "tests"
"""The client brings the API's description and its list of functions."""
TOKEN = "a-token"


class RefusedError(Exception):
    """A request that the real one refuses, with its status."""

    def __init__(self, message, *, status=400):
        super().__init__(message)
        self.status = status


@dataclass
class Stack:
    """An image on its way: a scene, some of its bands, what fills holes, and a type."""

    scene: object
    bands: list
    fill: float | None = None
    dtype: str | None = None


@dataclass
class State:
    """What the server has, was asked for, and is to get wrong."""

    catalog: Catalog
    url: str = ""
    asked: Counter = field(default_factory=Counter)
    log: list = field(default_factory=list)  # (asset, bands, grid) of each answer with pixels
    faults: list = field(default_factory=list)  # of the next requests: a status, "cut" or "stall"
    chance_of_fault: float = 0.0
    shift: float = 0.0  # metres that answers are off, to see that it is noticed
    slow_seconds: float = 0.0
    omitted: str = ""  # a property that images are told of without
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self):
        with self.lock:
            if self.faults:
                return self.faults.pop(0)
            if self.draw.random() < self.chance_of_fault:
                return self.draw.choice([429, 500, 503, "cut"])
        return None


class Interpreter:
    """Evaluates an expression of Earth Engine's API."""

    def __init__(self, catalog, expression):
        self.catalog, self.values = catalog, expression["values"]
        self.result = expression["result"]

    def run(self):
        return self.value(self.values[self.result], {})

    def value(self, node, names):
        (kind, body), *_ = node.items()
        if kind == "constantValue":
            return body
        if kind == "integerValue":
            return int(body)
        if kind == "valueReference":
            return self.value(self.values[body], names)
        if kind == "argumentReference":
            return names[body]
        if kind == "arrayValue":
            return [self.value(each, names) for each in body["values"]]
        if kind == "dictionaryValue":
            return {key: self.value(each, names) for key, each in body["values"].items()}
        if kind == "functionDefinitionValue":
            (name,) = body["argumentNames"]
            return lambda each: self.value(self.values[body["body"]], names | {name: each})
        if kind == "functionInvocationValue":
            arguments = {
                key: self.value(each, names) for key, each in body.get("arguments", {}).items()
            }
            function = FUNCTIONS.get(body["functionName"])
            if function is None:
                raise RefusedError(f"Unrecognized function: {body['functionName']}.")
            return function(self.catalog, **arguments)
        raise RefusedError(f"Unknown node: {kind}.")


def load_collection(_, id):
    if id not in COLLECTIONS:
        raise RefusedError(f"ImageCollection.load: ImageCollection asset '{id}' not found.")
    return {"collection": id, "tests": [], "at": None, "map": []}


def filter_collection(_, collection, filter):
    kind, body = filter
    if kind == "bounds":
        return collection | {"at": body}
    return collection | {"tests": [*collection["tests"], body]}


def intersects(_, leftField, rightValue):  # noqa: N803
    if leftField != ".all" or not isinstance(rightValue, Point):
        raise RefusedError("the stand-in knows bounds of points alone")
    return "bounds", rightValue


def in_range(_, leftValue, rightField):  # noqa: N803
    start, end = leftValue
    return "test", lambda scene: start <= scene[rightField] < end


def equals(_, leftField, rightValue):  # noqa: N803
    return "test", lambda scene: scene.get(leftField) == rightValue


def list_contains(_, leftField, rightValue):  # noqa: N803
    return "test", lambda scene: rightValue in scene.get(leftField, [])


def either(_, filters):
    tests = [body for _, body in filters]
    return "test", lambda scene: any(test(scene) for test in tests)


def load_image(catalog, id):
    scene = catalog.named(id)
    if scene is None:
        raise RefusedError(
            f"Image.load: Image asset '{id}' not found (does not exist or caller does not have "
            "access)."
        )
    return Stack(scene, [band["id"] for band in scene.describe()["bands"]])


def select(_, input, bandSelectors):  # noqa: N803
    for band in bandSelectors:
        if band not in input.bands:
            raise RefusedError(f"Image.select: Band pattern '{band}' did not match any bands. "
                          f"Available bands: {input.bands}")  # fmt: skip
    return Stack(input.scene, list(bandSelectors), input.fill, input.dtype)


def unmask(_, input, value, sameFootprint=True):  # noqa: N803
    if sameFootprint:
        raise RefusedError("the stand-in fills beyond footprints alone")
    return Stack(input.scene, input.bands, value, input.dtype)


FUNCTIONS = {
    "ImageCollection.load": load_collection, "Collection.filter": filter_collection,
    "Collection.map": lambda _, collection, baseAlgorithm: (  # noqa: N803
        collection | {"map": [*collection["map"], baseAlgorithm]}),
    "Filter.intersects": intersects, "Filter.dateRangeContains": in_range,
    "Filter.equals": equals, "Filter.listContains": list_contains, "Filter.or": either,
    "DateRange": lambda _, start, end: (start, end), "Feature": lambda _, geometry: geometry,
    "GeometryConstructors.Point": lambda _, coordinates: Point(coordinates),
    "GeometryConstructors.Polygon": lambda _, coordinates, **__: Polygon(coordinates[0]),
    "Image.load": load_image, "Image.select": select, "Image.unmask": unmask,
    "Image.constant": lambda _, value: value,
    "Image.toUint16": lambda _, value: Stack(value.scene, value.bands, value.fill, "uint16"),
    "Image.toFloat": lambda _, value: Stack(value.scene, value.bands, value.fill, "float32"),
}  # fmt: skip


def list_images(catalog, collection):
    """Answer with what a collection has, as the client's getInfo shows it."""
    if collection["at"] is None:
        raise RefusedError("User memory limit exceeded.")
    found = []
    for scene in catalog.at(collection["collection"], collection["at"].x, collection["at"].y):
        if all(test(scene.searched()) for test in collection["tests"]):
            stack = Stack(scene, [band["id"] for band in scene.describe()["bands"]])
            for function in collection["map"]:
                stack = function(stack)
            found.append(scene.describe(stack.bands))
    return {"type": "ImageCollection", "id": collection["collection"], "bands": [],
            "features": found}  # fmt: skip


def render(catalog, stack, grid, *, shift):
    """Pixels on a grid, nearest neighbours in the scene's own, as a GeoTIFF."""
    place, size = grid["affineTransform"], grid["dimensions"]
    width, height = size["width"], size["height"]
    if width * height * len(stack.bands) * 4 > 48 << 20:
        raise RefusedError("Total request size must be less than or equal to 50331648 bytes.")
    xs = place["translateX"] + (np.arange(width) + 0.5) * place["scaleX"]
    ys = place["translateY"] + (np.arange(height) + 0.5) * place["scaleY"]
    bands = {band["id"]: band["crs_transform"] for band in stack.scene.describe()["bands"]}
    epsg = int(grid["crsCode"].removeprefix("EPSG:"))
    if epsg != stack.scene.tile.epsg:  # a real one resamples, and so would this, pixel by pixel
        raise RefusedError("the stand-in has no other projection than the scene's")
    made = []
    for band in stack.bands:
        metres, _, left, _, _, top = bands[band]
        columns = np.floor((xs - left) / metres).astype(np.int64)
        rows = np.floor((top - ys) / metres).astype(np.int64)
        values, there = catalog.values(stack.scene, band, rows, columns)
        made.append(np.where(there, values, 0 if stack.fill is None else stack.fill))
    pixels = np.stack(made).astype(stack.dtype or made[0].dtype)
    affine = Affine(place["scaleX"], 0, place["translateX"] + shift, 0, place["scaleY"],
                    place["translateY"])  # fmt: skip
    with rasterio.MemoryFile() as file:
        with file.open(driver="GTiff", width=width, height=height, count=len(pixels),
                       dtype=pixels.dtype, crs=grid["crsCode"],
                       transform=affine) as target:  # fmt: skip
            target.write(pixels)
        return file.read()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        state = self.server.state
        if self.path.startswith("/$discovery/rest"):
            said = json.loads((SHIPPED / "cloud_api_discovery_document.json").read_bytes())
            said |= {"rootUrl": f"{state.url}/", "baseUrl": f"{state.url}/"}
            said.pop("mtlsRootUrl", None)
            return self._answer("discovery", lambda: json.dumps(said).encode())
        if "/algorithms" in self.path:
            return self._answer("algorithms", (SHIPPED / "algorithms.json").read_bytes)
        return self._send(404, b"{}")

    def do_POST(self):
        state = self.server.state
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/token":  # Google's answer to who shows the key of a service account
            token = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            return self._answer("token", lambda: json.dumps(token).encode())
        if self.headers.get("Authorization", f"Bearer {TOKEN}") != f"Bearer {TOKEN}":
            return self._refuse(RefusedError("Invalid credentials.", status=401))
        body = json.loads(data)
        if ":compute" not in self.path:
            return self._send(404, b"{}")

        def value():
            collection = Interpreter(state.catalog, body["expression"]).run()
            found = list_images(state.catalog, collection)
            for image in found["features"]:
                image["properties"].pop(state.omitted, None)
            if not found["features"]:
                del found["features"]  # as the real one does with what is empty
            return json.dumps({"result": found}).encode()

        def pixels():
            if body["fileFormat"] != "GEO_TIFF":
                raise RefusedError("the stand-in writes GeoTIFFs alone")
            stack = Interpreter(state.catalog, body["expression"]).run()
            data = render(state.catalog, stack, body["grid"], shift=state.shift)
            with state.lock:
                asset = f"{stack.scene.collection}/{stack.scene.name}"
                state.log.append((asset, tuple(stack.bands), json.dumps(body["grid"])))
            return data

        is_pixels = "image:computePixels" in self.path
        return self._answer("pixels" if is_pixels else "value", pixels if is_pixels else value)

    def _answer(self, kind, make):
        state = self.server.state
        with state.lock:
            state.asked[kind] += 1
        fault = state.next_fault()
        if state.slow_seconds:
            time.sleep(state.slow_seconds)
        if isinstance(fault, int):
            return self._refuse(RefusedError("Too many concurrent aggregations." if fault == 429
                                        else "Try again later.", status=fault))  # fmt: skip
        if fault == "quota":
            return self._refuse(RefusedError("Quota exceeded for quota metric 'Requests'.",
                                             status=403))  # fmt: skip
        if fault == "stall":
            self.close_connection = True
            return time.sleep(self.server.stall_seconds)
        try:
            data = make()
        except RefusedError as error:
            return self._refuse(error)
        return self._send(200, data, cut=fault == "cut", drops=fault == "drops")

    def _refuse(self, error):
        said = {"code": error.status, "message": str(error), "status": "FAILED"}
        self._send(error.status, json.dumps({"error": said}).encode())

    def _send(self, status, body, *, cut=False, drops=False):
        is_json = body[:1] in (b"{", b"[")
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if is_json else "image/tiff")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if drops:  # slower and slower, but never for as long as the client waits for a byte
            self.close_connection = True
            for byte in body[:40]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
            return
        if not cut:
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)  # closing resets the connection
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    stall_seconds = 3.0

    def handle_error(self, *_):
        """Clients that are killed leave broken connections."""


@contextmanager
def earth_engine(*, seed=0, real=None, **options):
    """Run a stand-in until the block ends; yields its State."""
    state = State(catalog=Catalog(seed=seed, real=real), **options)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.state = state
        state.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()


def write_key(path, url):
    """Write the key file of a service account of this server's."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    said = {
        "type": "service_account", "project_id": "test", "private_key_id": "1",
        "private_key": private.decode(), "client_email": "tester@test.iam.gserviceaccount.com",
        "client_id": "1", "token_uri": f"{url}/token",
    }  # fmt: skip
    path.write_text(json.dumps(said))
    return path


def tile_corner_place(scene, *, column, row):
    """Longitude and latitude of a pixel's corner of a scene's 10 m grid."""
    left, top = scene.tile.corner
    x, y = left + 10 * column, top - 10 * row
    (lon,), (lat,) = transform(f"EPSG:{scene.tile.epsg}", "EPSG:4326", [x], [y])[:2]
    return lon, lat


__all__ = ["RefusedError", "State", "earth_engine", "tile_corner_place", "write_key"]
