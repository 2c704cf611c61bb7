"""Invented scenes for the stand-in Earth Engine: where, when, how cloudy, which pixels.

Everything is a function of the seed and of names, computed when it is asked for. Sentinel-2 lies in
tiles of 109,800 m whose corners are 100 km apart, in every UTM zone that a tile touches, every five
days; L2A is there for most passes. Sentinel-1 has a grid of its own, every six days, from both
directions in turn. Some footprints end in the middle of a tile, and some scenes have holes.
"""

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from rasterio.warp import transform
from shapely import Point, Polygon

from ssl4eo_stream.bands import PRODUCTS

COLLECTIONS = {
    "COPERNICUS/S1_GRD": "s1", "COPERNICUS/S2_SR_HARMONIZED": "s2a", "COPERNICUS/S2_SR": "s2a",
    "COPERNICUS/S2_HARMONIZED": "s2c", "COPERNICUS/S2": "s2c",
}  # fmt: skip
TILE_METRES, STEP_METRES = 109_800, 100_000
OFFSET = {"s1": (-163, 257), "s2a": (-40, 20), "s2c": (-40, 20)}
"""Where a tile's upper left corner lies beside the 100 km grid; Sentinel-1's on no 60 m."""
EVERY_DAYS = {"s1": 6, "s2a": 5, "s2c": 5}
FIRST_DAY = datetime(2019, 1, 1, tzinfo=UTC)
S1_NUMBERS = (
    "GRD_Post_Processing_start", "GRD_Post_Processing_stop", "SLC_Processing_start",
    "SLC_Processing_stop", "startTimeANX", "stopTimeANX", "orbitNumber_start", "orbitNumber_stop",
    "relativeOrbitNumber_start", "relativeOrbitNumber_stop", "cycleNumber",
    "orbitProperties_ascendingNodeTime", "resolution_meters", "instrumentConfigurationID",
    "missionDataTakeID", "segmentStartTime", "sliceNumber", "totalSlices",
)  # fmt: skip
S1_TEXTS = (
    "GRD_Post_Processing_facility_country", "GRD_Post_Processing_facility_name",
    "GRD_Post_Processing_facility_organisation", "GRD_Post_Processing_facility_site",
    "GRD_Post_Processing_software_name", "GRD_Post_Processing_software_version",
    "SLC_Processing_facility_country", "SLC_Processing_facility_name",
    "SLC_Processing_facility_organisation", "SLC_Processing_facility_site",
    "SLC_Processing_software_name", "SLC_Processing_software_version",
    "S1TBX_Calibration_Operator_version", "S1TBX_SAR_Processing_version",
    "SNAP_Graph_Processing_Framework_GPF_version", "nssdcIdentifier", "familyName",
    "platform_number", "instrument", "instrumentSwath", "phaseIdentifier", "resolution",
    "productClass", "productClassDescription", "productComposition", "productType",
    "productTimelinessCategory", "sliceProductFlag",
)  # fmt: skip
S2_NUMBERS = (
    "CLOUD_COVERAGE_ASSESSMENT", "DEGRADED_MSI_DATA_PERCENTAGE", "GENERATION_TIME",
    "MEAN_SOLAR_AZIMUTH_ANGLE", "MEAN_SOLAR_ZENITH_ANGLE", "REFLECTANCE_CONVERSION_CORRECTION",
    "SENSING_ORBIT_NUMBER",
    *(f"MEAN_INCIDENCE_{kind}_ANGLE_{band}" for kind in ("AZIMUTH", "ZENITH")
      for band in PRODUCTS["s2c"].names),
    *(f"SOLAR_IRRADIANCE_{band}" for band in PRODUCTS["s2c"].names),
)  # fmt: skip
S2_TEXTS = (
    "DATASTRIP_ID", "DATATAKE_TYPE", "FORMAT_CORRECTNESS", "GENERAL_QUALITY", "GEOMETRIC_QUALITY",
    "GRANULE_ID", "PRODUCT_ID", "RADIOMETRIC_QUALITY", "SENSING_ORBIT_DIRECTION",
    "SENSOR_QUALITY", "SPACECRAFT_NAME",
)  # fmt: skip
S2A_NUMBERS = (
    "AOT_RETRIEVAL_ACCURACY", "CLOUD_SHADOW_PERCENTAGE", "DARK_FEATURES_PERCENTAGE",
    "HIGH_PROBA_CLOUDS_PERCENTAGE", "MEDIUM_PROBA_CLOUDS_PERCENTAGE", "NODATA_PIXEL_PERCENTAGE",
    "NOT_VEGETATED_PERCENTAGE", "RADIATIVE_TRANSFER_ACCURACY",
    "SATURATED_DEFECTIVE_PIXEL_PERCENTAGE", "SNOW_ICE_PERCENTAGE", "THIN_CIRRUS_PERCENTAGE",
    "UNCLASSIFIED_PERCENTAGE", "VEGETATION_PERCENTAGE", "WATER_PERCENTAGE",
    "WATER_VAPOUR_RETRIEVAL_ACCURACY",
)  # fmt: skip
"""Properties of the paper's tables XX and XXI, and of published metadata."""


def chance(*words):
    """A number of [0, 1) that words decide."""
    return zlib.crc32(" ".join(map(str, words)).encode()) / 2**32


@dataclass(frozen=True)
class Tile:
    """One place of the grid of scenes."""

    product: str
    epsg: int
    column: int
    row: int

    @property
    def corner(self):
        east, north = OFFSET[self.product]
        return self.column * STEP_METRES + east, (self.row + 1) * STEP_METRES + north

    @property
    def name(self):
        hemisphere = "N" if self.epsg < 32700 else "S"
        return f"T{self.epsg % 100:02d}{hemisphere}{self.column:02d}{self.row:03d}"

    @lru_cache(maxsize=4096)  # noqa: B019 - of a few hundred tiles, for a test
    def ring(self, *, half):
        """Corners in degrees: of all of it, or of its western half."""
        left, top = self.corner
        right = left + (TILE_METRES / 2 if half else TILE_METRES)
        steps = np.linspace(0, 1, 9)[:-1]
        xs = [*(left + steps * (right - left)), *[right] * 8, *(right - steps * (right - left)),
              *[left] * 8]  # fmt: skip
        ys = [*[top] * 8, *(top - steps * TILE_METRES), *[top - TILE_METRES] * 8,
              *(top - TILE_METRES + steps * TILE_METRES)]  # fmt: skip
        lon, lat = transform(f"EPSG:{self.epsg}", "EPSG:4326", [*xs, xs[0]], [*ys, ys[0]])[:2]
        return [list(corner) for corner in zip(lon, lat, strict=True)]


@dataclass(frozen=True)
class Scene:
    """One image."""

    collection: str
    tile: Tile
    day: int
    seed: int

    @property
    def product(self):
        return self.tile.product

    @property
    def ascending(self):
        return self.day // EVERY_DAYS["s1"] % 2 == 0

    @property
    def time(self):
        minutes = 600 + 60 * chance("pass", self.tile.epsg, self.tile.column)
        if self.product == "s1":
            minutes = 1020 if self.ascending else 345
        return FIRST_DAY + timedelta(days=self.day, seconds=round(60 * minutes))

    @property
    def name(self):
        time = f"{self.time:%Y%m%dT%H%M%S}"
        if self.product == "s1":
            return f"S1A_IW_GRDH_1SDV_{time}_{time}_{self.tile.name}"
        return f"{time}_{self.time + timedelta(seconds=9):%Y%m%dT%H%M%S}_{self.tile.name}"

    @property
    def cloud(self):
        return round(100 * chance(self.seed, "cloud", self.tile.name, self.day) ** 3, 4)

    @property
    def is_half(self):
        return chance(self.seed, "half", self.tile.name, self.day % 10) < 0.15

    @property
    def hole(self):
        """Rows and columns of the 10 m grid without pixels, if any: a band across the tile."""
        if chance(self.seed, "hole", self.name, self.product) >= 0.05:
            return None
        first = int(9000 * chance(self.seed, "where", self.name))
        return first, first + 1500

    def searched(self):
        """What is searched for."""
        said = {"system:time_start": int(self.time.timestamp() * 1000)}
        if self.product == "s1":
            is_wide = chance(self.seed, "mode", self.tile.name, self.day) < 0.9
            has_both = chance(self.seed, "polarization", self.tile.name, self.day) < 0.9
            said |= {
                "instrumentMode": "IW" if is_wide else "EW",
                "transmitterReceiverPolarisation": ["VV", "VH"] if has_both else ["VV"],
            }
        return said

    def properties(self):
        milliseconds = int(self.time.timestamp() * 1000)
        said = self.searched() | {
            "system:index": self.name,
            "system:time_end": milliseconds, "system:asset_size": 10**9,
            "system:footprint": {"type": "LinearRing",
                                 "coordinates": self.tile.ring(half=self.is_half)},
        }  # fmt: skip
        if self.product == "s1":
            said |= {name: chance(self.name, name) for name in S1_NUMBERS}
            said |= {name: f"{name} of {self.name}" for name in S1_TEXTS}
            return said | {"orbitProperties_pass": "ASCENDING" if self.ascending else "DESCENDING"}
        names = S2_NUMBERS + (S2A_NUMBERS if self.product == "s2a" else ())
        said |= {name: chance(self.name, name) for name in names}
        said |= {name: f"{name} of {self.name}" for name in S2_TEXTS}
        baseline = "04.00" if self.time >= datetime(2022, 1, 25, tzinfo=UTC) else "02.09"
        return said | {
            "CLOUDY_PIXEL_PERCENTAGE": self.cloud, "MGRS_TILE": self.tile.name[1:],
            "PROCESSING_BASELINE": baseline, "SENSING_ORBIT_DIRECTION": "DESCENDING",
            "DATATAKE_IDENTIFIER": f"GS2A_{self.time:%Y%m%dT%H%M%S}_{self.day:06d}_N{baseline}",
        }  # fmt: skip

    def describe(self, bands=None):
        """What Earth Engine's JSON says of an image."""
        left, top = self.tile.corner
        grids = []
        for band in PRODUCTS[self.product].bands:
            if bands is None or band.name in bands:
                metres = band.resolution_metres
                side = TILE_METRES // metres
                grids.append({"id": band.name, "dimensions": [side, side],
                              "crs": f"EPSG:{self.tile.epsg}",
                              "crs_transform": [metres, 0, left, 0, -metres, top]})  # fmt: skip
        return {"type": "Image", "id": f"{self.collection}/{self.name}", "version": 1,
                "bands": grids, "properties": self.properties()}  # fmt: skip

    def values(self, band, rows, columns):
        """Pixels of a band by row and column of its own grid, and which of them there are."""
        product = PRODUCTS[self.product]
        metres = product.bands[product.names.index(band)].resolution_metres
        side = TILE_METRES // metres
        inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))
        if self.is_half:
            inside &= columns < side // 2
        if self.hole:
            first, end = (edge * 10 // metres for edge in self.hole)
            inside &= ~((rows >= first) & (rows < end))[:, None]
        seed = zlib.crc32(f"{self.product} {self.name} {band}".encode())
        mixed = rows[:, None].astype(np.uint64) * 73856093 ^ columns.astype(np.uint64) * 19349663
        mixed = (mixed ^ np.uint64(seed)) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)
        noise = (mixed >> np.uint64(16)).astype(np.float64) / 65536
        waves = np.sin(rows[:, None] * metres / 700) + np.cos(columns * metres / 900)
        if self.product == "s1":
            return (-13 - 6 * (band == "VH") + 3 * waves + 4 * noise).astype(np.float32), inside
        dark = 0 if band == "B10" else 600
        return (dark + 400 * (waves + 2) + 700 * noise * (band != "B10")).astype(np.uint16), inside


class Catalog:
    """All scenes."""

    def __init__(self, *, seed=0, days=range(4 * 365), real=None):
        self.seed, self.days = seed, days
        self.real = real  # band -> a real patch's pixels, to be had everywhere instead

    def values(self, scene, band, rows, columns):
        """Pixels of a band of a scene, and which of them there are."""
        values, inside = scene.values(band, rows, columns)
        if self.real:
            patch = self.real[band]
            values = patch[rows[:, None] % len(patch), columns % len(patch)]
        return values, inside

    def tiles_at(self, product, lon, lat):
        """Tiles whose square holds a place, of its zone and of those beside it."""
        return _tiles_at(product, round(lon, 9), round(lat, 9))

    def at(self, collection, lon, lat):
        """Scenes of a collection whose footprint holds a place."""
        product = COLLECTIONS[collection]
        found = []
        for tile in self.tiles_at(product, lon, lat):
            phase = int(EVERY_DAYS[product] * chance("phase", tile.epsg, tile.column))
            holds = {half: Polygon(tile.ring(half=half)).contains(Point(lon, lat))
                     for half in (False, True)}  # fmt: skip
            for day in self.days:
                if day % EVERY_DAYS[product] != phase:
                    continue
                scene = Scene(collection, tile, day, self.seed)
                if holds[scene.is_half] and self.exists(scene):
                    found.append(scene)
        return found

    def exists(self, scene):
        """L2A is missing for some passes."""
        return scene.product != "s2a" or chance(self.seed, "l2a", scene.name) < 0.93

    def named(self, asset):
        """The scene of a full name, or None."""
        collection, _, name = asset.rpartition("/")
        if collection not in COLLECTIONS:
            return None
        product = COLLECTIONS[collection]
        time, tile = name.split("_")[4 if product == "s1" else 0], name.split("_")[-1]
        epsg = (32600 if tile[3] == "N" else 32700) + int(tile[1:3])
        day = (datetime.strptime(time, "%Y%m%dT%H%M%S").replace(tzinfo=UTC) - FIRST_DAY).days
        scene = Scene(
            collection, Tile(product, epsg, int(tile[4:6]), int(tile[6:])), day, self.seed
        )
        is_there = day in self.days and scene.name == name and self.exists(scene)
        return scene if is_there else None


@lru_cache(maxsize=4096)
def _tiles_at(product, lon, lat):
    zone = int((lon + 180) // 6) % 60 + 1
    tiles = []
    for each in (zone - 1, zone, zone + 1):
        number = (each - 1) % 60 + 1
        epsg = (32600 if lat >= 0 else 32700) + number
        (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])[:2]
        if not 100_000 < x < 900_000:
            continue
        for column in range(int(x // STEP_METRES) - 1, int(x // STEP_METRES) + 2):
            for row in range(int(y // STEP_METRES) - 1, int(y // STEP_METRES) + 2):
                tile = Tile(product, epsg, column, row)
                left, top = tile.corner
                if not (left <= x < left + TILE_METRES and top - TILE_METRES < y <= top):
                    continue
                middle = transform(
                    f"EPSG:{epsg}", "EPSG:4326", [left + TILE_METRES / 2], [top - TILE_METRES / 2]
                )[0][0]
                reach = 3 + TILE_METRES / 2 / 111_320 / np.cos(np.radians(lat))
                if abs((middle - (6 * number - 183) + 180) % 360 - 180) < reach:
                    tiles.append(tile)
    return tiles
