"""Invented ground as four sensors' arrays would show it: the arithmetic behind `make_sample.py`.

A scene is a map of fields, woods, water and buildings on the 10 m grid. A day of the year gives the
share of every pixel that each of four materials covers; mixing their spectra gives reflectance; an
atmosphere makes Level-1C of it, and taking that off again, Level-2A. The mixture is linear, so the
block mean of the maps is the block mean of every band: the 20 m and 60 m bands show exactly the
ground of the 10 m bands.

Shapes: M materials, K layers (M, then path, cloud, glint), C bands, N = 264 pixels of 10 m.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int, UInt16

from ssl4eo_stream.bands import PATCH_METRES, S1, S2A, S2C

SIZE = PATCH_METRES // 10
NOISE_EXPONENT = 2.15
"""Power of natural texture falls as frequency to this power; 96 real patches of cities: 2.2-2.4."""
ENL = 4.4
"""Equivalent number of looks of Sentinel-1 IW GRD high resolution (product specification)."""
SPECKLE_KERNEL = (0.25, 0.5, 0.25)
"""Oversampling of GRD: speckle of neighbours correlates by 2/3, as measured on published files."""
NOISE_DN = 12.0
"""Standard deviation of the sensor's own noise: signal to noise 120 at reflectance 0.14."""

# Surface reflectance × 10,000, columns as S2C. Shapes after the usual spectral libraries; each
# column is scaled so that many locations have the mean of the whole data set (`bands.S2A`).
SPECTRA = np.array([
    #  B1    B2    B3    B4    B5    B6    B7    B8   B8A    B9   B10   B11   B12
    [ 230,  290,  560,  350,  910, 2370, 2920, 3070, 3160, 3190,    0, 1800,  860],  # vegetation
    [ 840, 1070, 1430, 1920, 2220, 2470, 2590, 2680, 2780, 2770,    0, 3330, 2790],  # soil
    [ 480,  520,  540,  410,  390,  320,  300,  270,  250,  230,    0,  130,   90],  # water
    [1070, 1250, 1480, 1640, 1840, 2130, 2250, 2350, 2390, 2390,    0, 2450, 2120],  # built-up
], np.float64)  # fmt: skip
CLOUD = np.array([8200, 7900, 7600, 7700, 7900, 8000, 8100, 8000, 8100, 4000, 150, 4400, 3500])
"""A bright cumulus at the top of the atmosphere, DN of Level-1C."""
TRANSMISSION = np.array(
    [0.70, 0.78, 0.83, 0.88, 0.87, 0.90, 0.94, 0.88, 0.96, 0.30, 1.0, 0.91, 0.84]
)
"""Two-way transmission of a clear atmosphere; water vapour takes most of B9."""
_L2A = {band.name: band.mean for band in S2A.bands}
PATH = np.array([
    band.mean - through * _L2A.get(band.name, band.mean)
    for band, through in zip(S2C.bands, TRANSMISSION, strict=True)
])  # fmt: skip
"""Light scattered into the view, DN: what is left between the two products' means."""
BACKSCATTER_DB = np.array([[-12.0, -13.0, -22.5, -5.5], [-18.0, -22.0, -30.0, -13.5]], np.float64)
"""Sigma nought of the four materials (columns) for VV and VH in dB."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One location: what never changes between its dates."""

    segments: Int[np.ndarray, "n n"]
    """Number of the field that a pixel belongs to."""
    water: Float[np.ndarray, "n n"]
    """Share of water, 0-1."""
    built: Float[np.ndarray, "n n"]
    """Share of buildings and roads, 0-1."""
    woods: Bool[np.ndarray, "n n"]
    """Where trees stand: green all year."""
    green: Float[np.ndarray, "2 fields"]
    """Per field, least vegetation share and its rise in the growing season."""
    peak_day: Float[np.ndarray, " fields"]
    """Per field, day of the year of most vegetation."""
    brightness: Float[np.ndarray, "m n n"]
    """Factor on the spectrum of each material: fields differ, pixels vary by texture."""
    roughness: Float[np.ndarray, " fields"]
    """Per field, factor on radar backscatter."""
    texture: Float[np.ndarray, "3 n n"]
    """Power-law textures, mean 0 and deviation 1: terrain, growth, fine grain."""


@dataclass(frozen=True, kw_only=True)
class Sky:
    """One Sentinel-2 date: what hangs between the scene and the sensor."""

    cloud: Float[np.ndarray, "n n"]
    """Opacity of clouds, 0-1."""
    shade: Float[np.ndarray, "n n"]
    """Factor on the sunlight that reaches the ground."""
    haze: float
    """Factor on the light scattered into the view."""
    cirrus: float
    """Mean DN of B10."""
    glint: Float[np.ndarray, "n n"]
    """Mirror-like reflections of roofs and water, DN in every band."""


def power_law_noise(
    rng: np.random.Generator, *, count: int, size: int = SIZE, exponent: float = NOISE_EXPONENT
) -> Float[np.ndarray, "count size size"]:
    """Return periodic Gaussian fields, power ~ frequency ** -exponent, mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    amplitude = frequency ** (-exponent / 2)
    white = np.fft.rfft2(rng.standard_normal((count, size, size)))
    fields = np.fft.irfft2(white * amplitude, s=(size, size))
    return fields / fields.std(axis=(1, 2), keepdims=True)


def voronoi(
    u: Float[np.ndarray, "n n"],
    v: Float[np.ndarray, "n n"],
    *,
    seeds: Float[np.ndarray, "fields 2"],
) -> Int[np.ndarray, "n n"]:
    """Return each point's nearest seed by the larger coordinate difference: box-like fields."""
    nearest = np.full(u.shape, np.inf, u.dtype)
    segments = np.zeros(u.shape, np.intp)
    for number, (seed_u, seed_v) in enumerate(seeds.astype(u.dtype)):
        distance = np.maximum(np.abs(u - seed_u), np.abs(v - seed_v))
        closer = distance < nearest
        segments[closer] = number
        nearest[closer] = distance[closer]
    return segments


def spread(*, seed: int, index: int, salt: int) -> float:
    """Return number `index` of an evenly spread sequence in [0, 1): any run of it is balanced.

    Additive recurrence by the golden ratio from a start that depends on seed and salt. Plain random
    numbers would let the mean of a few locations stray too far from that of the data set.
    """
    start = np.random.default_rng([3, seed, salt]).random()
    return float((start + index * (5**0.5 - 1) / 2) % 1.0)


def make_scene(*, seed: int, location: int, north: bool) -> Scene:
    """Return the ground of a location; `north` says in which half of the year it is green."""
    rng = np.random.default_rng([4, seed, location])
    dry, wet, urban, bright = (
        spread(seed=seed, index=location * step, salt=salt)
        for salt, step in enumerate((1, 3, 7, 11))
    )
    texture = power_law_noise(rng, count=3)
    lakes, trees, town = power_law_noise(rng, count=3, exponent=3.2)
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    turn = rng.uniform(0, np.pi / 2)
    u = columns * np.cos(turn) + rows * np.sin(turn)
    v = rows * np.cos(turn) - columns * np.sin(turn)
    stretch = rng.uniform(1.2, 2.5)
    num_fields = int(rng.integers(100, 260))
    seeds = rng.uniform(-0.75 * SIZE, 0.75 * SIZE, (num_fields, 2)) * [1 / stretch, 1]
    segments = voronoi((u / stretch).astype(np.float32), v.astype(np.float32), seeds=seeds)

    water = np.clip((lakes - np.quantile(lakes, 1 - 0.45 * wet**4)) / 0.04, 0, 1)
    built_up = town > np.quantile(town, 1 - 0.75 * urban**2)
    built = np.where(built_up, _blocks(rng, u, v), _roads(rng, u, v)) * (1 - water)
    woods = (trees > np.quantile(trees, 0.75 + 0.25 * dry)) & ~built_up

    season = 196 if north else 14
    least = rng.uniform(0.0, 0.25, num_fields) + 0.35 * (0.8 - dry)
    rise = rng.uniform(0.1, 0.9, num_fields) * (1.1 - 0.8 * dry)
    field = np.exp(rng.normal(0, [[0.15], [0.25]], (2, num_fields)))[:, segments]
    level = np.exp(bright - 0.5)
    grain = 1 + 0.06 * texture[0] + 0.05 * texture[2]
    brightness = np.stack([
        field[0] * np.where(woods, 0.62, 1.0) * (1 + 0.10 * texture[1]),
        field[1] * level * (1 + 0.12 * texture[1]),
        np.full_like(u, np.exp(0.8 * (bright - 0.5))),
        _roofs(rng, u, v),
    ])  # fmt: skip
    return Scene(
        segments=segments,
        water=water,
        built=built,
        woods=woods,
        green=np.stack([least, rise]),
        peak_day=season + rng.normal(0, 55, num_fields),
        brightness=np.maximum(brightness * grain, 0.05),
        roughness=np.exp(rng.normal(0, 0.35, num_fields)),
        texture=texture,
    )


def _blocks(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the share of buildings in a town: blocks of varied density, streets between."""
    block = rng.uniform(9, 16)
    density = rng.uniform(0.35, 1.0, (64, 64))
    street = (np.mod(u, block) < 1.2) | (np.mod(v, 1.6 * block) < 1.2)
    cells = density[(u // block).astype(int) % 64, (v // (1.6 * block)).astype(int) % 64]
    return np.where(street, 0.9, cells)


def _roads(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the share of asphalt outside of towns: a few straight roads."""
    share = np.zeros(u.shape)
    for _ in range(int(rng.integers(1, 5))):
        slope, start = rng.normal(0, 0.6), rng.uniform(-SIZE / 2, SIZE / 2)
        distance = np.abs(v - slope * u - start) / np.hypot(1, slope)
        share = np.maximum(share, 0.8 * np.clip(1.6 - distance, 0, 1))
    return share


def _roofs(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the brightness of buildings: cells of a few pixels, some of them white halls."""
    side = rng.uniform(2.2, 4.0)
    cells = np.exp(rng.normal(-0.06, 0.35, (96, 96)))
    return cells[(u // side).astype(int) % 96, (v // side).astype(int) % 96]


def cover(scene: Scene, *, day: float) -> Float[np.ndarray, "m n n"]:
    """Return the shares of vegetation, soil, water and built-up on a day; their sum is 1."""
    phase = np.cos(2 * np.pi * (day - scene.peak_day) / 365.25)
    share = scene.green[0] + scene.green[1] * (0.5 + 0.5 * phase) ** 1.5
    growing = share[scene.segments] + 0.10 * scene.texture[1]
    growing = np.where(scene.woods, 0.92, np.clip(growing, 0, 1))
    land = 1 - scene.water - scene.built
    return np.stack([land * growing, land * (1 - growing), scene.water, scene.built])


def make_sky(*, seed: int, location: int, date: int) -> Sky:
    """Return clouds, shadows and haze of a location's Sentinel-2 date."""
    rng = np.random.default_rng([5, seed, location, date])
    index = location * 4 + date
    cloudy, hazy, high = (
        spread(seed=seed, index=index * step, salt=salt)
        for salt, step in ((10, 1), (11, 3), (12, 7))
    )
    puffs, thickness = power_law_noise(rng, count=2, exponent=2.6)
    share = 0.22 * max(0.0, cloudy - 0.82) / 0.18
    edge = np.quantile(puffs, 1 - share) if share > 0 else np.inf
    cloud = np.clip((puffs - edge) / 0.5, 0, 1)
    shadow = np.roll(cloud, tuple(rng.integers(10, 30, 2)), axis=(0, 1))
    sparks = rng.random((SIZE, SIZE)) < 4e-5
    sparks[tuple(rng.integers(0, SIZE, 2))] = True
    return Sky(
        cloud=cloud * np.clip(1 + 0.2 * thickness, 0, 1.6),
        shade=(1 - 0.45 * shadow) * rng.uniform(0.96, 1.04),
        haze=0.85 + 0.3 * hazy,
        cirrus=11.5 * float(np.exp(1.15 * NormalDist().inv_cdf(0.004 + 0.992 * high))),
        glint=sparks * rng.uniform(8_000, 18_000, (SIZE, SIZE)),
    )


def sentinel2(
    scene: Scene, *, sky: Sky, day: float, rng: np.random.Generator
) -> dict[str, list[UInt16[np.ndarray, "_ _"]]]:
    """Return the bands of both Sentinel-2 products in DN, each on its native grid.

    Level-2A is Level-1C with path light and transmission taken off: the same datatake and noise.
    """
    clear = 1 - np.minimum(sky.cloud, 1)
    layers = np.concatenate([
        cover(scene, day=day) * scene.brightness * (sky.shade * clear),
        np.stack([clear, sky.cloud, sky.glint]),
    ])  # (K, N, N)  # fmt: skip
    path = PATH * sky.haze
    b10 = S2C.names.index("B10")
    path[b10] = sky.cirrus
    mixing = np.column_stack([(SPECTRA * TRANSMISSION).T, path, CLOUD, TRANSMISSION])
    mixing[b10, -1] = 0.0  # water vapour hides the ground from B10
    level_1c: dict[int, np.ndarray] = {}
    for grid in S2C.grids:
        factor = SIZE // grid.pixels
        coarse = layers.reshape(len(layers), grid.pixels, factor, grid.pixels, factor).mean((2, 4))
        bands = np.einsum("ck,kyx->cyx", mixing[list(grid.channels)], coarse)
        noise = rng.standard_normal(bands.shape)
        for channel, values, error in zip(grid.channels, bands, noise, strict=True):
            deviation = NOISE_DN if S2C.names[channel] != "B10" else 1.5
            level_1c[channel] = values + deviation * error
    return {
        "s2c": [_digital(level_1c[c]) for c in range(len(S2C.bands))],
        "s2a": [
            _digital((level_1c[c] - path[c]) / TRANSMISSION[c])
            for c, name in enumerate(S2C.names)
            if name in S2A.names
        ],
    }


def _digital(values: np.ndarray) -> np.ndarray:
    """Round to DN; 0 means no data, so the least value is 1."""
    return np.clip(np.rint(values), 1, 65_535).astype(np.uint16)


def sentinel1(
    scene: Scene, *, day: float, rng: np.random.Generator
) -> list[Float[np.ndarray, "n n"]]:
    """Return VV and VH backscatter in dB (float32) with multiplicative gamma speckle."""
    shares = cover(scene, day=day)
    sigma = np.einsum("pm,myx->pyx", 10 ** (BACKSCATTER_DB / 10), shares)
    sigma *= scene.roughness[scene.segments] * np.exp(0.12 * scene.texture[0] + rng.normal(0, 0.15))
    kernel = np.array(SPECKLE_KERNEL)
    looks = ENL * float((kernel**2).sum()) ** 2  # averaging neighbours raises it to ENL
    speckle = rng.standard_gamma(looks, (len(S1.bands), SIZE, SIZE)) / looks
    for axis in (1, 2):
        speckle = sum(
            weight * np.roll(speckle, shift, axis)
            for weight, shift in zip(SPECKLE_KERNEL, (-1, 0, 1), strict=True)
        )
    return list((10 * np.log10(np.maximum(sigma * speckle, 1e-6))).astype(np.float32))
