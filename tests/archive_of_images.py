"""An archive of images in memory: another service, with scenes and pixels made by arithmetic."""

import hashlib
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.collect.scene import MISSING, Pixels, Scene
from ssl4eo_stream.errors import ServiceError


def draw(*words):
    """A number in [0, 1) that depends on nothing but the words."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:6]) / 2**48


def scene(product, time, *, name=None, cloud=5.0, tile="T32UPU", datatake="A", ascending=None,
          epsg=32632):  # fmt: skip
    """A scene whose upper left corner is that of tile T32UPU."""
    optical = product != "s1"
    stamp = f"{time:%Y%m%dT%H%M%S}"
    name = name or (f"{stamp}_{stamp}_{tile}" if optical else f"S1A_IW_GRDH_1SDV_{stamp}")
    return Scene(
        product=product, id=f"{product}/{name}", name=name, time=time,
        cloud_percent=cloud if optical else None, datatake=datatake if optical else None,
        ascending=ascending, epsg=epsg, left=600000.0, top=5400000.0,
        properties={"MGRS_TILE": tile[1:], "CLOUDY_PIXEL_PERCENTAGE": cloud} if optical else {},
    )  # fmt: skip


class Images:
    """Sentinel-2 every five days, with L1C and L2A of each pass; Sentinel-1 every six days.

    Args:
        clear: Share of scenes without clouds.
        whole: Share of scenes without missing pixels.
        failing: Share of requests that fail, each time they are made.
        wait_seconds: How long each request takes.
        seed: Of what fails.
    """

    name = "images in memory"

    def __init__(self, *, clear=0.5, whole=1.0, failing=0.0, wait_seconds=0.0, seed=0):
        self.clear, self.whole, self.failing, self.wait_seconds = (
            clear,
            whole,
            failing,
            wait_seconds,
        )
        self.asked, self.now, self.most = [], 0, 0
        self._lock = threading.Lock()
        self._random = np.random.default_rng(seed)

    def scenes(self, product, *, lon, lat, windows):
        self._request(
            "scenes", product.name, lon, lat, *(f"{each.start:%Y-%m-%d}" for each in windows)
        )
        step, hour = (6, 5) if product.name == "s1" else (5, 10)
        found = []
        for window in windows:
            day = datetime(2015, 1, 1, hour, tzinfo=UTC)
            day += timedelta(days=step * (-((day - window.start).days // step)))
            while day < window.end:
                if window.holds(day):
                    clear = draw(lon, lat, day) < self.clear
                    found.append(
                        scene(product.name, day, cloud=1.0 if clear else 60.0, datatake=f"{day}",
                              ascending=day.day % 2 == 0)
                    )  # fmt: skip
                day += timedelta(days=step)
        return found

    def pixels(self, scene, box):
        self._request("pixels", scene.id, box.left, box.top)
        product = PRODUCTS[scene.product]
        value = draw(scene.id, box.left, box.top)
        missing = int(draw("whole", scene.id, box.left) >= self.whole)
        bands = []
        for number, band in enumerate(product.bands):
            ramp = np.linspace(0, 1, band.pixels)[:, None] * np.linspace(1, 0.2, band.pixels)
            values = band.mean + band.std * (ramp + value + number / 10)
            bands.append(np.abs(values).astype(product.dtype))
            if missing:
                bands[-1][0, 0] = MISSING[scene.product]
        return Pixels(bands=tuple(bands), missing=missing)

    def stop(self):
        self.wait_seconds = 0.0

    def _request(self, *what):
        with self._lock:
            self.asked.append(what)
            self.now += 1
            self.most = max(self.most, self.now)
            fails = self._random.random() < self.failing
        try:
            time.sleep(self.wait_seconds)
            if fails:
                raise ServiceError("the images answer 503. Ask again.")
        finally:
            with self._lock:
                self.now -= 1
