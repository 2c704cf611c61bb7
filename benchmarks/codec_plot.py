"""Draw what `codecs.py` measured of Sentinel-2: error over size, error by band, speed of decoding.

Run: `python benchmarks/codec_plot.py benchmarks/results/codecs_s2c_….json [PICTURE.svg]`
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

COLORS = {"reflectance": "#1f5fa8", "mean±2σ": "#d1701f"}
LINES = {"native": "-", "264": "--"}
SHOWN = {"jpeg:75": "#9ecae1", "jpeg:90": "#1f5fa8", "jpeg:98": "#08306b", "zstd": "#3a9a5b"}
"""Codecs whose error is drawn band by band -> colour."""
Rows = Sequence[Mapping[str, Any]]


def short(codec: str) -> str:
    """Return what a point is called: the quality, or `lossless`."""
    return {"zstd": "lossless"}.get(codec, codec.removeprefix("jpeg:"))


def draw_rates(axes: Axes, rows: Rows) -> None:
    """Draw the error that a network would see at 10 m over the size of a patch."""
    for scaling, grid in dict.fromkeys((row["scaling"], row["grid"]) for row in rows):
        if scaling not in COLORS:
            continue
        points = [r for r in rows if (r["scaling"], r["grid"]) == (scaling, grid)]
        x = [r["kilobytes"] for r in points]
        y = [r["mean error seen at 10 m"] for r in points]
        label = f"{scaling}, {'native sizes' if grid == 'native' else 'all at 10 m'}"
        axes.plot(x, y, LINES[grid], marker="o", markersize=4, color=COLORS[scaling],
                  alpha=1 if grid == "native" else 0.55, label=label)  # fmt: skip
        if grid == "native":
            below = scaling != "mean±2σ"
            for row, left, top in zip(points, x, y, strict=True):
                axes.annotate(
                    short(row["codec"]), (left, top), xytext=(-4, -4) if below else (4, 4),
                    textcoords="offset points", ha="right" if below else "left",
                    va="top" if below else "bottom", fontsize=8, color=COLORS[scaling],
                )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="KB a patch", ylabel="mean error, DN",
             title="Error seen at 10 m over size")  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlim(23, None)
    axes.set_xticks([30, 50, 100, 200, 400])
    axes.set_yticks([3, 5, 10, 20, 50, 100])
    axes.legend(fontsize=8, frameon=False, loc="lower left")


def draw_bands(axes: Axes, rows: Rows) -> None:
    """Draw every band's error as shards hold it, under the deviation of its pixels."""
    first = rows[0]
    names = [column.removeprefix("std ") for column in first if column.startswith("std ")]
    places, spread = range(len(names)), [first[f"std {name}"] for name in names]
    axes.fill_between(places, spread, 0.1, color="#eeeeee", zorder=0)
    axes.plot(places, spread, color="#999999", label="deviation of pixels")
    for row in rows:
        if row["grid"] != "native" or row["codec"] not in SHOWN:
            continue
        own = row["scaling"] == first["scaling"]
        if not own and row["codec"] != "jpeg:90":
            continue
        label = row["codec"] if row["codec"] != "zstd" else "zstd (lossless bytes)"
        axes.plot(places, [row[f"error {n}"] for n in names], marker="o", markersize=4,
                  linestyle="-" if own else ":",
                  color=SHOWN[row["codec"]] if own else COLORS[row["scaling"]],
                  label=label if own else f"{label}, {row['scaling']}")  # fmt: skip
    axes.set(yscale="log", ylabel="mean error, DN", title="Error of every band, native sizes")
    axes.set_xticks(places, names, fontsize=8)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(0.7, 12_000)
    axes.set_yticks([1, 10, 100, 1000])
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")


def draw_speeds(axes: Axes, rows: Rows) -> None:
    """Draw how many patches one core decodes in a second, as shards hold them and upsampled."""
    scaling = rows[0]["scaling"]
    grids = [grid for grid in LINES if any(row["grid"] == grid for row in rows)]
    for number, grid in enumerate(grids):
        own = [r for r in rows if r["grid"] == grid and r["scaling"] in (scaling, "source values")]
        speeds = [1000 / row["decode ms"] for row in own]
        places = [place + 0.4 * (number - (len(grids) - 1) / 2) for place in range(len(own))]
        bars = axes.bar(places, speeds, 0.38, color=COLORS[scaling],
                        alpha=1 if grid == "native" else 0.45,
                        label="native sizes" if grid == "native" else "all at 10 m")  # fmt: skip
        axes.bar_label(bars, [f"{speed:.0f}" for speed in speeds], fontsize=7, padding=1)
        axes.set_xticks(
            range(len(own)), [r["codec"].removeprefix("jpeg:") for r in own], fontsize=8
        )
    axes.set(ylabel="patches/s, one core", xlabel="JPEG quality, or lossless codec",
             title="Decoding")  # fmt: skip
    axes.legend(fontsize=8, frameon=False)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result of `codecs.py` into a picture."""
    rows = result["rows"]
    style: dict[Any, Any] = {
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
        "svg.hashsalt": "codecs", "figure.facecolor": "white",
    }  # fmt: skip
    with mpl.rc_context(style):
        figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
        draw_rates(axes[0], rows)
        draw_bands(axes[1], rows)
        draw_speeds(axes[2], rows)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def main() -> None:
    """Draw."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    picture = Path(sys.argv[2]) if len(sys.argv) == 3 else source.with_suffix(".svg")
    draw(json.loads(source.read_text()), picture)
    print(picture)


if __name__ == "__main__":
    main()
