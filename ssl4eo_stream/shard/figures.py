"""Charts of a page about shards: SVG by matplotlib that takes its colours from the page.

A chart is drawn in stand-in colours that become variables of the page's style sheet, so it is
legible on a light and on a dark screen; text stays text, in the page's font. Charts are small: a
page puts several in a row, or one above the other on a phone.
"""

import io
import re
from calendar import month_abbr
from collections.abc import Sequence
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64, Shaped
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ssl4eo_stream.bands import Band
from ssl4eo_stream.land import land
from ssl4eo_stream.shard.stats import BandStats

INK, FAINT, LAND = "#000001", "#000002", "#000003"
SERIES = ("#000004", "#000005", "#000006")
"""One colour a product."""
VARIABLES = {
    INK: "var(--ink)", FAINT: "var(--faint)", LAND: "var(--land)",
    SERIES[0]: "var(--first)", SERIES[1]: "var(--second)", SERIES[2]: "var(--third)",
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ssl4eo",
    "font.size": 9,
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MAX_DOTS = 1500
"""More locations than this are counted in cells of a degree instead of drawn one by one."""
LATITUDES = (-58.0, 84.0)
"""What the map shows at least: all land but Antarctica."""


@mpl.rc_context(STYLE)
def world_map(lon: Float64[np.ndarray, " n"], lat: Float64[np.ndarray, " n"]) -> Markup:
    """Draw where locations lie, degrees: a dot each, or many as counts in cells of a degree."""
    south, north = min(LATITUDES[0], lat.min() - 2), max(LATITUDES[1], lat.max() + 2)
    figure, axes = _canvas(10.0, 10 * (north - south) / 360)
    axes.add_patch(PathPatch(_land(), facecolor=LAND, edgecolor="none"))
    axes.set(xlim=(-180, 180), ylim=(south, north), aspect="equal")
    axes.axis("off")
    label = f"Map of the world with {lon.size:,} locations"
    if lon.size <= MAX_DOTS:
        size = float(np.clip(10_000 / lon.size, 10, 120))
        axes.scatter(lon, lat, s=size, color=SERIES[0], alpha=0.75, linewidths=0)
        return _svg(figure, label=label)
    counts, _, _ = np.histogram2d(lat, lon, bins=(180, 360), range=((-90, 90), (-180, 180)))
    shades = ListedColormap(mpl.colormaps["plasma"](np.linspace(0.25, 0.95, 256)))
    norm = LogNorm(1, max(counts.max(), 10))
    axes.imshow(
        np.ma.masked_equal(counts, 0), origin="lower", extent=(-180, 180, -90, 90),
        interpolation="none", cmap=shades, norm=norm, zorder=2,
    )  # fmt: skip
    scale, bar = _canvas(3.6, 0.65)
    scale.colorbar(
        ScalarMappable(norm, shades), cax=bar, orientation="horizontal", format="{x:,.0f}",
        label="locations in a cell of 1°",
    )  # fmt: skip
    return _svg(figure, label=label) + _svg(scale, label="Scale of the map's colours")


@cache
def _land() -> Path:
    """Outlines of the continents, longitude and latitude in degrees."""
    return Path.make_compound_path(
        *(Path(np.array(ring), closed=True) for rings in land() for ring in rings)
    )


@mpl.rc_context(STYLE)
def dates_by_month(times: Sequence[Shaped[np.ndarray, " _"]]) -> Markup:
    """Draw how many patches there are of each month, from the first to the last.

    Args:
        times: Sensing times of each product, datetime64; some are known of one at least.
    """
    months = [each.astype("datetime64[M]") for each in times]
    first, last = np.concatenate(months).min(), np.concatenate(months).max()
    figure, axes = _canvas(4.2, 1.9)
    span = np.arange(first, last + 1)
    width = 27 / len(months)
    for i, (each, color) in enumerate(zip(months, SERIES, strict=False)):
        counts = np.bincount((each - first).astype(int), minlength=span.size)
        days = span.astype("datetime64[D]").astype(float) + width * (i + 0.5)
        axes.bar(days, counts, width, color=color)
    axes.xaxis_date()
    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    if span.size < 4:  # a bar or two would else be as wide as the chart
        days = span.astype("datetime64[D]").astype(float)
        axes.set_xlim(days[0] - 60, days[-1] + 90)
    _counted(axes)
    return _svg(figure, label="Patches of each month, from the first to the last")


@mpl.rc_context(STYLE)
def months_of_the_year(times: Sequence[Shaped[np.ndarray, " _"]]) -> Markup:
    """Draw how many patches there are of each of the twelve months; arguments as above."""
    figure, axes = _canvas(4.2, 1.9)
    width = 0.85 / len(times)
    for i, (each, color) in enumerate(zip(times, SERIES, strict=False)):
        months = each.astype("datetime64[M]").astype(int) % 12
        places = np.arange(12) + width * (i - (len(times) - 1) / 2)
        axes.bar(places, np.bincount(months, minlength=12), width, color=color)
    axes.set_xticks(range(12), month_abbr[1:])
    axes.tick_params("x", length=0, labelsize=8)
    _counted(axes)
    return _svg(figure, label="Patches of each month of the year")


@mpl.rc_context(STYLE)
def cloud(percents: Sequence[tuple[int, Float64[np.ndarray, " _"]]]) -> Markup:
    """Draw how many patches there are by cloud cover.

    Args:
        percents: Which of the products, and its known cloud covers in percent; one at least.
    """
    figure, axes = _canvas(4.2, 1.9)
    edges = np.arange(0, 101, 5)
    width = 5 / len(percents)
    for i, (product, each) in enumerate(percents):
        counts, _ = np.histogram(each, edges)
        places = edges[:-1] + width * (i + 0.5)
        axes.bar(places, counts, width * 0.9, color=SERIES[product])
    axes.set(xlim=(0, 100), xticks=range(0, 101, 20))
    axes.xaxis.set_major_formatter("{x:.0f} %")
    _counted(axes)
    return _svg(figure, label="Patches by cloud cover in percent")


@mpl.rc_context(STYLE)
def band_histogram(
    found: BandStats, band: Band, *, scale: float, offset: float, product: int
) -> Markup:
    """Draw the pixels of a band, their mean, and the paper's mean with a standard deviation.

    Args:
        found: What the pixels are like.
        band: The band; its mean and std are the paper's.
        scale: Width of a bin in the band's unit.
        offset: What the first bin is about.
        product: Which of the products, for its colour.
    """
    figure, axes = _canvas(2.3, 1.25)
    share = np.cumsum(found.histogram) / found.count
    first, last = np.searchsorted(share, (0.002, 0.998))
    edges = (np.arange(257) - 0.5) * scale + offset
    low = min(edges[first], band.mean - band.std, found.mean)
    high = max(edges[last + 1], band.mean + band.std, found.mean)
    axes.axvspan(band.mean - band.std, band.mean + band.std, color=FAINT, alpha=0.25, linewidth=0)
    axes.stairs(
        found.histogram[first : last + 1], edges[first : last + 2], fill=True,
        color=SERIES[product], alpha=0.8,
    )  # fmt: skip
    axes.axvline(band.mean, color=INK, linewidth=1.3, linestyle=(0, (3, 2)))
    axes.axvline(found.mean, color=INK, linewidth=1.3)
    axes.set(xlim=(max(low, offset), high), ylim=(0, None), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    return _svg(figure, label=f"Histogram of band {band.name}")


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _counted(axes: Axes) -> None:
    """Write whole numbers at the left, and lines through them."""
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", color=FAINT, alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params("y", length=0)


def _svg(figure: Figure, *, label: str) -> Markup:
    """Return a figure as an element of HTML, without a size or names of its own."""
    sink = io.StringIO()
    figure.savefig(
        sink, format="svg", transparent=True,
        metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
    )  # fmt: skip
    text = sink.getvalue()
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None, "matplotlib writes one"
    body = text[text.index("</defs>") + len("</defs>") :]  # the first ones are style alone
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"(\.\d\d\d)\d+", r"\1", body)
    for stand_in, variable in VARIABLES.items():
        body = body.replace(stand_in, variable)
    head = Markup('<svg {} role="img" aria-label="{}">').format(Markup(view[0]), label)
    return head + Markup(body)
