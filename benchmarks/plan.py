"""How long does a plan of 250,000 locations take, and what does the paper's rule overlook?

Run: `python benchmarks/plan.py worldcities.csv.gz`, the table that the paper drew from.

Plans are made by the command, map and file included. Pairs that are too near are counted by a k-d
tree on the unit sphere, which the command does not use. The paper's rule (section III) compares a
location with those of its own cell of 1° by 1° alone; here it gets the same candidates. The code
that was released measures in degrees besides, as if those were equally long everywhere.
"""

import argparse
import hashlib
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import summary, table, write_result
from scipy.spatial import KDTree

from ssl4eo_stream.collect.candidates import around, read_points
from ssl4eo_stream.collect.cities import Cities, read_cities
from ssl4eo_stream.commands.collect import main as collect

QUESTION = "How long does a plan of 250,000 locations take, and what does the paper's rule miss?"
LIMIT_METRES = 1980.0
SPHERE_METRES = 6_371_008.8


def near_pairs(lon: np.ndarray, lat: np.ndarray) -> int:
    """Return how many pairs are nearer than the limit on the sphere, by a k-d tree."""
    lon, lat = np.radians(lon), np.radians(lat)
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    chord = 2 * np.sin(LIMIT_METRES / SPHERE_METRES / 2)
    return len(KDTree(places).query_pairs(chord, output_type="ndarray"))


def on_ground(lon: float, lat: float, other: tuple[float, float]) -> float:
    """Return metres between places that are near each other on the sphere, by haversine."""
    rise, turn = np.radians(other[1] - lat), np.radians(other[0] - lon)
    a = np.sin(rise / 2) ** 2
    a += np.cos(np.radians(lat)) * np.cos(np.radians(other[1])) * np.sin(turn / 2) ** 2
    return float(2 * SPHERE_METRES * np.arcsin(np.sqrt(a)))


def in_degrees(lon: float, lat: float, other: tuple[float, float]) -> float:
    """Return metres as if a degree of longitude were as long as one of latitude."""
    return float(np.hypot(other[0] - lon, other[1] - lat) * np.pi / 180 * SPHERE_METRES)


def same_cell(
    cities: Cities, n: int, metres: Callable[[float, float, tuple[float, float]], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return n locations of the same candidates by the rule that looks at their own cell alone."""
    cells: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    taken = []
    source = around(cities, sigma_metres=50_000.0, seed=0)
    places = itertools.chain.from_iterable(
        zip(b.lon.tolist(), b.lat.tolist(), strict=True) for b in source
    )
    for lon, lat in places:
        cell = cells[int(np.floor(lon)), int(np.floor(lat))]
        # 0.05 degrees: no need to measure what differs by 5.5 km of latitude
        close = (other for other in cell if abs(other[1] - lat) < 0.05)
        if all(metres(lon, lat, other) >= LIMIT_METRES for other in close):
            cell.append((lon, lat))
            taken.append((lon, lat))
            if len(taken) == n:
                break
    lon, lat = np.array(taken).T
    return lon, lat


def deviations(latitude: float) -> tuple[float, float]:
    """Return the deviation of a million offsets at a latitude, east and north, in km."""
    cities = Cities(names=["x"], lon=np.zeros(1), lat=np.array([latitude]))
    blocks = list(itertools.islice(around(cities, sigma_metres=50_000.0, seed=0), 61))
    lon = np.radians(np.concatenate([each.lon for each in blocks]))
    lat = np.radians(np.concatenate([each.lat for each in blocks]))
    # a local tangent plane of WGS84 at the city: space, less the city, turned east and north
    e2, at = 6.694379990141e-3, np.radians(latitude)
    normal = 6_378_137 / np.sqrt(1 - e2 * np.sin(lat) ** 2)
    here = 6_378_137 / np.sqrt(1 - e2 * np.sin(at) ** 2)
    x = normal * np.cos(lat) * np.cos(lon) - here * np.cos(at)
    z = (1 - e2) * (normal * np.sin(lat) - here * np.sin(at))
    east = normal * np.cos(lat) * np.sin(lon)
    north = np.cos(at) * z - np.sin(at) * x
    return float(east.std() / 1000), float(north.std() / 1000)


def main() -> None:
    """Plan, check, compare, and write the table."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("cities", type=Path, help="simplemaps' worldcities.csv, or .csv.gz")
    parser.add_argument("--n", type=int, default=250_000)
    parser.add_argument("--repeats", type=int, default=3, help="2 or more")
    options = parser.parse_args()
    seconds, digests, rows = [], set(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.csv"
        flags = ["--n", str(options.n), "--cities", str(options.cities), "--output", str(file)]
        for _ in range(options.repeats):
            start = time.perf_counter()
            assert collect(["plan", "--seed", "0", *flags]) == 0
            seconds.append(time.perf_counter() - start)
            digests.add(hashlib.sha256(file.read_bytes()).hexdigest())
        made = read_points(file)
    took = summary(seconds)
    rows.append(
        {
            "what": f"plan --n {options.n} --seed 0",
            "seconds": f"{took['median']} ({took['low']}–{took['high']})",
            "different files": len(digests),
            "sha256": digests.pop()[:16],
            "pairs under 1980 m": near_pairs(made.lon, made.lat),
        }
    )
    cities = read_cities(options.cities, top=10_000)
    for name, metres in (("same cell alone", on_ground), ("the same, in degrees", in_degrees)):
        print(name, file=sys.stderr)
        pairs = near_pairs(*same_cell(cities, options.n, metres))
        rows.append({"what": f"paper's rule: {name}", "pairs under 1980 m": pairs})
    for latitude in (0.0, 45.0, 65.0):
        east, north = deviations(latitude)
        rows.append(
            {
                "what": f"offsets at {latitude:.0f}° of latitude",
                "sigma east, km": round(east, 3),
                "sigma north, km": round(north, 3),
            }
        )
    print(table(rows))
    print(write_result("plan", question=QUESTION, repeats=options.repeats, rows=rows))


if __name__ == "__main__":
    main()
