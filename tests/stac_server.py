"""A STAC API on loopback, for tests: items of two collections, and their GeoTIFFs by byte ranges.

The items are as the Planetary Computer's and Earth Search's, one band a GeoTIFF, a scene 600
pixels of 60 m wide. Pixels are a function of scene, band, row and column, so a test knows them.
"""

import json
import threading
import zlib
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform
from shapely import Polygon
from shapely.geometry import mapping, shape

from ssl4eo_stream.bands import S1, S2A

SIDE_METRES = 7200
CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
]


class StacServer:
    """A running catalogue: what it has, what it is to refuse, and what it was asked for."""

    def __init__(self, root):
        self.root, self.items, self.url = root, [], ""
        self.failures = []  # status codes of the next answers to searches
        self.searches = 0

    def add(self, product, *, time, epsg, left, top, common_names=False, baseline="03.01", **said):
        """Make a scene and its files; returns its id."""
        name = f"{product.name}-{time:%Y%m%dT%H%M%S}-{epsg}-{int(left)}"
        xs = [left, left + SIDE_METRES, left + SIDE_METRES, left, left]
        ys = [top - SIDE_METRES, top - SIDE_METRES, top, top, top - SIDE_METRES]
        lon, lat = transform(f"EPSG:{epsg}", "EPSG:4326", xs, ys)[:2]
        footprint = said.pop("footprint", None) or Polygon(list(zip(lon, lat, strict=True)))
        assets = {}
        for c, band in enumerate(product.bands):
            asset = self._asset_name(product, band, common_names=common_names)
            metres = said.get("metres") or band.resolution_metres
            pixels = self.pixels(name, product, c)
            path = self.root / f"{name}-{band.name}.tif"
            with rasterio.open(
                path, "w", driver="GTiff", height=len(pixels), width=len(pixels), count=1,
                dtype=pixels.dtype, crs=f"EPSG:{epsg}", tiled=True, blockxsize=128, blockysize=128,
                compress="deflate", transform=from_origin(left, top, metres, metres),
                nodata=-32768 if product is S1 else 0,
            ) as file:  # fmt: skip
                file.write(pixels, 1)
            assets[asset] = {
                "href": f"{self.url}/files/{path.name}", "type": "image/tiff; application=geotiff",
                "roles": ["data"], "proj:shape": list(pixels.shape),
                "proj:transform": [metres, 0, left, 0, -metres, top],
            }  # fmt: skip
        radar = {"sar:instrument_mode": "IW", "sat:orbit_state": "descending"}
        optical = {"eo:cloud_cover": 3.25, "s2:mgrs_tile": "32TPT",
                   "s2:processing_baseline": baseline,
                   "s2:datatake_id": f"GS2B_{time:%Y%m%dT%H%M%S}_016948_N{baseline}"}  # fmt: skip
        self.items.append(
            {
                "type": "Feature", "stac_version": "1.0.0", "id": name, "links": [],
                "stac_extensions": [
                    "https://stac-extensions.github.io/projection/v1.1.0/schema.json"
                ],
                "collection": "sentinel-1-rtc" if product is S1 else "sentinel-2-l2a",
                "geometry": mapping(footprint), "bbox": list(footprint.bounds),
                "properties": {"datetime": f"{time:%Y-%m-%dT%H:%M:%SZ}", "proj:epsg": epsg}
                | (radar if product is S1 else optical) | said,
                "assets": assets,
            }
        )  # fmt: skip
        return name

    @staticmethod
    def _asset_name(product, band, *, common_names):
        if product is S1:
            return band.name.lower()
        common = {"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1",
                  "B6": "rededge2", "B7": "rededge3", "B8": "nir", "B8A": "nir08", "B9": "nir09",
                  "B11": "swir16", "B12": "swir22"}  # fmt: skip
        return common[band.name] if common_names else f"B{band.name[1:].zfill(2)}"[-3:]

    @staticmethod
    def pixels(name, product, channel):
        """Return all pixels of a band of a scene."""
        side = SIDE_METRES // product.bands[channel].resolution_metres
        draw = np.random.default_rng(zlib.crc32(f"{name} {channel}".encode()))
        if product is S1:
            return draw.uniform(0.001, 0.9, (side, side)).astype(np.float32)
        return draw.integers(1, 12_000, (side, side)).astype(np.uint16)

    def search(self, wanted):
        """Return the items that a search means."""
        found = [item for item in self.items if item["collection"] in wanted["collections"]]
        if ids := wanted.get("ids"):
            found = [item for item in found if item["id"] in ids]
        if place := wanted.get("intersects"):
            found = [i for i in found if shape(i["geometry"]).intersects(shape(place))]
        if span := wanted.get("datetime"):
            start, end = (datetime.fromisoformat(text) for text in span.split("/"))
            found = [
                item for item in found
                if start <= datetime.fromisoformat(item["properties"]["datetime"]) <= end
            ]  # fmt: skip
        return {"type": "FeatureCollection", "features": found, "links": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer_search(wanted)

    def do_GET(self):
        path = urlsplit(self.path).path
        if path.startswith("/files/"):
            return self._file(path.removeprefix("/files/"))
        if path == "/search":
            query = {key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()}
            for key in ("collections", "ids"):
                if key in query:
                    query[key] = query[key].split(",")
            if "intersects" in query:
                query["intersects"] = json.loads(query["intersects"])
            return self._answer_search(query)
        catalogue = self.server.catalogue
        links = [
            {"rel": "self", "href": catalogue.url}, {"rel": "root", "href": catalogue.url},
            {"rel": "search", "href": f"{catalogue.url}/search", "method": "POST",
             "type": "application/geo+json"},
        ]  # fmt: skip
        return self._json(
            {
                "type": "Catalog", "stac_version": "1.0.0", "id": "test", "description": "test",
                "conformsTo": CONFORMS, "links": links,
            }
        )  # fmt: skip

    do_HEAD = do_GET  # noqa: N815 - the server's name

    def _answer_search(self, wanted):
        catalogue = self.server.catalogue
        catalogue.searches += 1
        if catalogue.failures:
            return self._json({"detail": "try later"}, status=catalogue.failures.pop(0))
        return self._json(catalogue.search(wanted))

    def _file(self, name):
        path = self.server.catalogue.root / name
        if not path.exists():
            return self._json({"detail": "no such file"}, status=404)
        data = path.read_bytes()
        first, last, status = 0, len(data) - 1, 200
        if said := self.headers.get("Range"):
            begin, _, end = said.removeprefix("bytes=").partition("-")
            first, last, status = int(begin), min(int(end or last), last), 206
        body = data[first : last + 1]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return None

    def _json(self, said, *, status=200):
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def stac_server(root):
    """Run a catalogue until the block ends."""
    catalogue = StacServer(root)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.catalogue, server.daemon_threads = catalogue, True
        catalogue.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield catalogue
        finally:
            server.shutdown()


def days(number):
    """Return a moment, so many days after the first of June 2020."""
    return datetime(2020, 6, 1, 10, 30, tzinfo=UTC) + timedelta(days=number)


__all__ = ["S1", "S2A", "SIDE_METRES", "StacServer", "days", "stac_server"]
