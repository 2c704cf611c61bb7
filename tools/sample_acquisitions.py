"""Where and when the invented patches of `make_sample.py` were seen: places, overpasses, metadata.

Places lie around real cities. Overpasses follow the orbits of Sentinel-1A/B and Sentinel-2A/B, so
that date, platform, orbit numbers and names of an acquisition belong together as published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from rasterio.warp import transform as project

from ssl4eo_stream.bands import PATCH_METRES, PRODUCTS, ProductName

CITIES = (
    (-99.13, 19.43), (-74.01, 40.71), (-46.63, -23.55), (-58.38, -34.60), (-70.65, -33.46),
    (-79.38, 43.65), (-118.24, 34.05), (-74.08, 4.61), (-0.13, 51.51), (2.35, 48.86),
    (13.40, 52.52), (11.58, 48.14), (-3.70, 40.42), (12.50, 41.89), (21.01, 52.23), (28.98, 41.01),
    (31.24, 30.04), (3.38, 6.52), (36.82, -1.29), (28.05, -26.20), (46.68, 24.71), (51.39, 35.69),
    (73.31, 30.46), (77.21, 28.61), (90.41, 23.81), (100.50, 13.76), (106.85, -6.21),
    (116.41, 39.90), (139.69, 35.69), (151.21, -33.87),
)  # fmt: skip
"""Longitude and latitude of cities in degrees, around which the locations lie."""
FIRST, LAST = datetime(2019, 12, 15, tzinfo=UTC), datetime(2021, 10, 5, tzinfo=UTC)
"""Span of the published acquisitions."""
STEP_DAYS, WINDOW_DAYS = 91, 15
"""Dates of a location are a quarter apart, give or take the window for an overpass."""
MAX_DATES = 1 + ((LAST - FIRST).days - 2 * WINDOW_DAYS) // STEP_DAYS
STAMP = "%Y%m%dT%H%M%S"
NEW_BASELINE = datetime(2021, 3, 30, tzinfo=UTC)
"""When processing baseline 03.00 began."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One satellite in one direction, by one of its overpasses."""

    platform: str
    """`A` or `B`."""
    time: datetime
    """When it was."""
    orbit: int
    """Absolute orbit number then."""
    relative_orbit: int
    """Relative orbit number then, from 1."""
    cycle_orbits: int
    """Orbits until the ground track repeats."""
    cycle_days: int
    """Days until then."""
    local_hour: float
    """Mean local solar time below the satellite."""
    direction: str
    """`ASCENDING` or `DESCENDING`."""


@dataclass(frozen=True, kw_only=True)
class Overpass:
    """A satellite above a place."""

    track: Track
    """Which satellite, which way."""
    time: datetime
    """When it begins to look."""
    orbit: int
    """Absolute orbit number."""

    @property
    def relative_orbit(self) -> int:
        """Number of the orbit in its cycle, from 1."""
        ahead = self.orbit - self.track.orbit
        return (self.track.relative_orbit - 1 + ahead) % self.track.cycle_orbits + 1


def _tracks(
    cycle: tuple[int, int], hour: float, direction: str, *known: tuple
) -> tuple[Track, ...]:
    return tuple(
        Track(platform=platform, time=datetime.fromisoformat(time), orbit=orbit,
              relative_orbit=relative, cycle_orbits=cycle[0], cycle_days=cycle[1],
              local_hour=hour, direction=direction)
        for platform, time, orbit, relative in known
    )  # fmt: skip


# S1A and S2B as in published files; their twins follow half a cycle later on the same ground track.
SENTINEL2 = _tracks(
    (143, 10), 10.65, "DESCENDING",
    ("A", "2020-06-09T05:46:39Z", 25928, 48), ("B", "2020-06-04T05:46:39Z", 16948, 48),
)  # fmt: skip
SENTINEL1 = (
    _tracks(
        (175, 12), 6.02, "DESCENDING",
        ("A", "2020-06-07T01:08:00Z", 32904, 107), ("B", "2020-06-13T01:08:00Z", 22008, 107),
    ),
    _tracks(
        (175, 12), 18.09, "ASCENDING",
        ("A", "2020-09-03T13:12:12Z", 34195, 173), ("B", "2020-09-09T13:12:12Z", 23299, 173),
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a patch lies."""

    lon: float
    """Longitude of the centre in degrees (WGS 84)."""
    lat: float
    """Latitude of the centre in degrees (WGS 84)."""
    tile: str
    """Its MGRS square of 100 km, as Sentinel-2 names tiles, for example `43RCP`."""

    @property
    def size_degrees(self) -> tuple[float, float]:
        """Width and height of the patch in degrees, by the series for WGS 84 arc lengths."""
        phi = np.radians(self.lat)
        metres_lon = 111_412.84 * np.cos(phi) - 93.5 * np.cos(3 * phi)
        metres_lat = 111_132.92 - 559.82 * np.cos(2 * phi) + 1.175 * np.cos(4 * phi)
        return float(PATCH_METRES / metres_lon), float(PATCH_METRES / metres_lat)


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """One image of a place."""

    name: str
    """Earth Engine's `system:index`; the folder's name."""
    time: datetime
    """When it was taken, UTC."""
    overpass: Overpass
    """By which satellite."""


def find_place(*, seed: int, location: int) -> Place:
    """Return a location's place: normally distributed around a city, 50 km, as the data set's."""
    rng = np.random.default_rng([1, seed, location])
    city_lon, city_lat = CITIES[(location * 7 + seed) % len(CITIES)]
    east, north = rng.normal(0, 50 / 111.2, 2)
    lat = round(city_lat + north, 6)
    lon = round(city_lon + east / float(np.cos(np.radians(lat))), 6)
    return Place(lon=lon, lat=lat, tile=mgrs_square(lon, lat))


def mgrs_square(lon: float, lat: float) -> str:
    """Return zone, band and 100 km square of the military grid (without its exceptions)."""
    zone = int((lon + 180) // 6) + 1
    utm = f"EPSG:{326 if lat >= 0 else 327}{zone:02d}"
    (easting, *_), (northing, *_) = project("EPSG:4326", utm, [lon], [lat])[:2]
    columns = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(zone - 1) % 3]
    row = int(northing // 100_000) + (0 if zone % 2 else 5)
    band = "CDEFGHJKLMNPQRSTUVWX"[int((lat + 80) // 8)]
    column = columns[int(easting // 100_000) - 1]
    return f"{zone:02d}{band}{column}{'ABCDEFGHJKLMNPQRSTUV'[row % 20]}"


def overpasses(tracks: Sequence[Track], *, lon: float, around: datetime) -> list[Overpass]:
    """Return the overpasses above a longitude within the window around a time, in order of time.

    Of a cycle's orbits the one above the longitude crosses it at its local hour.
    """
    found = []
    for track in tracks:
        per_day = track.cycle_orbits / track.cycle_days
        hour = track.time.hour + track.time.minute / 60
        late = hour + 24 * np.arange(track.cycle_orbits) / per_day - (track.local_hour - lon / 15)
        nearest = int(np.argmin(np.abs((late + 12) % 24 - 12)))
        first = track.time + timedelta(days=nearest / per_day)
        cycle, window = timedelta(days=track.cycle_days), timedelta(days=WINDOW_DAYS)
        count = -((first - (around - window)) // cycle)
        while (time := first + count * cycle) <= around + window:
            orbit = track.orbit + nearest + count * track.cycle_orbits
            found.append(Overpass(track=track, time=time.replace(microsecond=0), orbit=orbit))
            count += 1
    return sorted(found, key=lambda overpass: overpass.time)


def plan_dates(
    *, seed: int, location: int, place: Place, count: int
) -> list[tuple[Acquisition, Acquisition]]:
    """Return the Sentinel-1 and Sentinel-2 acquisition of each date; never both on one day."""
    rng = np.random.default_rng([2, seed, location])
    room = (LAST - FIRST).days - 2 * WINDOW_DAYS - STEP_DAYS * (count - 1)
    phase = WINDOW_DAYS + float(rng.uniform(0, min(room, 364)))
    chosen = []
    for date in range(count):
        around = FIRST + timedelta(days=phase + date * STEP_DAYS)
        found = overpasses(SENTINEL2, lon=place.lon, around=around)
        optical = found[int(rng.integers(len(found)))]
        found = overpasses(SENTINEL1[int(rng.integers(2))], lon=place.lon, around=around)
        found = [one for one in found if one.time.date() != optical.time.date()]
        radar = found[int(rng.integers(len(found)))]
        chosen.append((_sentinel1_name(rng, radar), _sentinel2_name(rng, optical, place)))
    return chosen


def _sentinel1_name(rng: np.random.Generator, overpass: Overpass) -> Acquisition:
    """Name by start, stop, orbit, data take (about 8.176 numbers an orbit) and checksum."""
    epoch_orbit, epoch_take = {"A": (32904, 249786), "B": (21919, 170401)}[overpass.track.platform]
    take = epoch_take + round(8.176 * (overpass.orbit - epoch_orbit))
    stop = overpass.time + timedelta(seconds=25)
    times = f"{overpass.time:{STAMP}}_{stop:{STAMP}}"
    numbers = f"{overpass.orbit:06d}_{take:06X}_{int(rng.integers(1 << 16)):04X}"
    name = f"S1{overpass.track.platform}_IW_GRDH_1SDV_{times}_{numbers}"
    return Acquisition(name=name, time=overpass.time, overpass=overpass)


def _sentinel2_name(rng: np.random.Generator, overpass: Overpass, place: Place) -> Acquisition:
    """Name by start of the data take, start of the granule some minutes on, and tile."""
    time = overpass.time + timedelta(seconds=int(rng.integers(20, 600)))
    name = f"{overpass.time:{STAMP}}_{time:{STAMP}}_T{place.tile}"
    return Acquisition(name=name, time=time, overpass=overpass)


def metadata(
    acquisition: Acquisition, *, product: ProductName, place: Place, cloud_percent: float
) -> dict[str, Any]:
    """Return the properties of an acquisition: a flat dictionary with Earth Engine's names.

    Args:
        acquisition: What was taken.
        product: Whose properties.
        place: Where.
        cloud_percent: Share of the scene under clouds, 0-100; not for `s1`.
    """
    collection = {"s1": "S1_GRD", "s2a": "S2_SR", "s2c": "S2"}[product]
    width, height = place.size_degrees
    corners = ((-20, -20), (20, -20), (20, 20), (-20, 20), (-20, -20))  # patches, some 50 km
    milliseconds = int(acquisition.time.timestamp()) * 1000
    if product == "s1":
        own = _radar(acquisition)
    else:
        level = {"s2a": "L2A", "s2c": "L1C"}[product]
        own = _optical(acquisition, level=level, place=place, cloud_percent=cloud_percent)
    return {
        "synthetic": True,
        **own,
        "system:band_names": list(PRODUCTS[product].names),
        "system:footprint": {
            "type": "LinearRing",
            "coordinates": [[place.lon + x * width, place.lat + y * height] for x, y in corners],
        },
        "system:id": f"COPERNICUS/{collection}/{acquisition.name}",
        "system:index": acquisition.name,
        "system:time_start": milliseconds,
    }


def _radar(acquisition: Acquisition) -> dict[str, Any]:
    overpass, take = acquisition.overpass, acquisition.name.split("_")[7]
    return {
        "familyName": "SENTINEL-1",
        "instrumentMode": "IW",
        "missionDataTakeID": int(take, 16),
        "orbitNumber_start": overpass.orbit,
        "orbitProperties_pass": overpass.track.direction,
        "platform_number": overpass.track.platform,
        "productType": "GRD",
        "relativeOrbitNumber_start": overpass.relative_orbit,
        "resolution_meters": 10,
        "transmitterReceiverPolarisation": ["VV", "VH"],
    }


def _optical(
    acquisition: Acquisition, *, level: str, place: Place, cloud_percent: float
) -> dict[str, Any]:
    overpass = acquisition.overpass
    satellite = f"S2{overpass.track.platform}"
    start, tile = f"{overpass.time:{STAMP}}", place.tile
    made = acquisition.time + timedelta(hours=4)
    old = {"L1C": "02.09", "L2A": "02.14"}[level]
    baseline = old if acquisition.time < NEW_BASELINE else "03.00"
    return {
        "CLOUDY_PIXEL_PERCENTAGE": round(cloud_percent, 4),
        "CLOUD_COVERAGE_ASSESSMENT": round(cloud_percent, 4),
        "DATATAKE_IDENTIFIER": f"G{satellite}_{start}_{overpass.orbit:06d}_N{baseline}",
        "GRANULE_ID": f"{level}_T{tile}_A{overpass.orbit:06d}_{acquisition.time:{STAMP}}",
        "MEAN_SOLAR_ZENITH_ANGLE": sun_zenith(
            lat=place.lat, time=acquisition.time, hour=overpass.track.local_hour
        ),
        "MGRS_TILE": tile,
        "PROCESSING_BASELINE": baseline,
        "PRODUCT_ID": f"{satellite}_MSI{level}_{start}_N{baseline.replace('.', '')}"
        f"_R{overpass.relative_orbit:03d}_T{tile}_{made:{STAMP}}",
        "SENSING_ORBIT_DIRECTION": overpass.track.direction,
        "SENSING_ORBIT_NUMBER": overpass.relative_orbit,
        "SPACECRAFT_NAME": f"Sentinel-2{overpass.track.platform}",
    }


def sun_zenith(*, lat: float, time: datetime, hour: float) -> float:
    """Return the sun's zenith angle in degrees at a local solar hour, to a few degrees."""
    year = 2 * np.pi * (time.timetuple().tm_yday + 10) / 365.25
    declination, phi = -np.radians(23.44) * np.cos(year), np.radians(lat)
    turn = np.radians(15 * (hour - 12))
    height = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(turn)
    return round(float(np.degrees(np.arccos(height))), 4)
