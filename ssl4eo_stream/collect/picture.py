"""A plan as a picture: a map of the world with its locations."""

import io

import numpy as np
from jaxtyping import Float64
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from ssl4eo_stream.land import land

FEW = 5000
"""Up to so many locations are a dot each; more are counted in cells of a degree."""


def world_map(lon: Float64[np.ndarray, " n"], lat: Float64[np.ndarray, " n"]) -> bytes:
    """Return a PNG of where locations lie, degrees."""
    figure = Figure(figsize=(12, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    rings = [Path(np.array(ring), closed=True) for rings in land() for ring in rings]
    shores = PathPatch(Path.make_compound_path(*rings), facecolor="0.85", edgecolor="none")
    axes.add_patch(shores)
    if lon.size <= FEW:
        axes.scatter(lon, lat, s=9, color="tab:red", alpha=0.7, linewidths=0)
    else:
        counts, _, _ = np.histogram2d(lat, lon, bins=(180, 360), range=((-90, 90), (-180, 180)))
        drawn = axes.imshow(
            np.ma.masked_equal(counts, 0), origin="lower", extent=(-180, 180, -90, 90),
            interpolation="none", cmap="plasma", norm=LogNorm(1, max(counts.max(), 10)), zorder=2,
        )  # fmt: skip
        figure.colorbar(drawn, label="locations in a cell of 1°", shrink=0.8)
    axes.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal", title=f"{lon.size:,} locations")
    axes.set(xticks=range(-180, 181, 60), yticks=range(-90, 91, 30))
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
