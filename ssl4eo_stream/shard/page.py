"""What there is to show of shards -> one HTML page: no network, no script, no font."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

import jinja2
import numpy as np
from markupsafe import Markup

from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard import figures
from ssl4eo_stream.shard.lacks import Lack, count, lacks
from ssl4eo_stream.shard.show import Holding, Overview, Site, Thumbnail
from ssl4eo_stream.shard.stats import BandStats, bins
from ssl4eo_stream.shard.thumbnails import COLOURS, MEDIA_TYPE

CLEAR_PERCENT = 10
"""Cloud cover up to which a patch counts as clear in the page's text."""


@dataclass(frozen=True, kw_only=True)
class _BandView:
    """One band's histogram and what stands below it."""

    name: str
    metres: int
    chart: Markup
    mean: str
    paper: str


@dataclass(frozen=True, kw_only=True)
class _ProductView:
    """What the page says of one product."""

    title: str
    url: str
    facts: list[tuple[str, str]]
    pages: str
    clouds: str
    unit: str
    sampled: int
    patches: int
    bands: list[_BandView]
    colours: str
    lacks: list[Lack]


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """A thumbnail and what stands below it."""

    source: str
    date: str
    cloud: str


@dataclass(frozen=True, kw_only=True)
class _SiteView:
    """A location that is shown."""

    key: str
    place: str
    rows: list[tuple[str, list[_Picture]]]
    columns: int


def page(overview: Overview) -> str:
    """Return the page as the text of an HTML file.

    Raises:
        ShardError: A folder's skipped.jsonl is not the list that a build writes.
    """
    holdings = overview.holdings
    template = files("ssl4eo_stream.shard").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    known = [holding.places.known_times for holding in holdings]
    times = np.concatenate(known)
    clouds = [
        (i, holding.places.known_cloud)
        for i, holding in enumerate(holdings)
        if holding.places.known_cloud.size
    ]
    lon, lat = _everywhere(holdings)
    num_patches = sum(holding.manifest.patches for holding in holdings)
    return environment.from_string(template).render(
        title=" · ".join(holding.product.title for holding in holdings),
        counts=f"{count(lon.size, 'location')}, {count(num_patches, 'patch', 'patches')}",
        days=_span(times, unit="D"),
        months=_span(times, unit="M"),
        products=[
            _product(holding, found, sampled, [each for each in holdings if each is not holding], i)
            for i, (holding, found, sampled) in enumerate(
                zip(holdings, overview.bands, overview.sampled, strict=True)
            )
        ],
        map=figures.world_map(lon, lat),
        bounds=_bounds(lon, lat),
        month_chart=figures.dates_by_month(known) if times.size else "",
        year_chart=figures.months_of_the_year(known) if times.size else "",
        cloud_chart=figures.cloud(clouds) if clouds else "",
        sites=[_site(site, holdings) for site in overview.sites],
        years=_span(times, unit="Y"),
    )


def _everywhere(holdings: Iterable[Holding]) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of the locations of all products, each once."""
    ids = np.concatenate([holding.index.ids for holding in holdings])
    _, first = np.unique(ids, return_index=True)
    lon, lat = (
        np.concatenate([getattr(holding.places, name) for holding in holdings])[first]
        for name in ("lon", "lat")
    )
    return lon, lat


def _span(times: np.ndarray, *, unit: str) -> str:
    """From when to when, to the day (D), month (M) or year (Y); nothing if no time is known."""
    rounded = times.astype(f"datetime64[{unit}]")
    ends = {str(rounded.min()), str(rounded.max())} if rounded.size else set()
    return " to ".join(sorted(ends))


def _bounds(lon: np.ndarray, lat: np.ndarray) -> str:
    if lon.size == 1:
        return f"The location lies at {place_text(lon[0], lat[0])}."
    return (
        f"{lon.size:,} locations from {place_text(lon.min(), lat.min())} to "
        f"{place_text(lon.max(), lat.max())}."
    )


def _product(
    holding: Holding,
    found: tuple[BandStats, ...],
    sampled: int,
    others: list[Holding],
    number: int,
) -> _ProductView:
    manifest, product = holding.manifest, holding.product
    kb = holding.num_bytes / manifest.patches / 1e3
    raw_kb = holding.raw_bytes / manifest.patches / 1e3
    clouds = holding.places.known_cloud
    unit, digits = ("dB", 2) if manifest.product == "s1" else ("DN", 1)
    return _ProductView(
        title=product.title,
        url=holding.store.url,
        facts=[
            ("codec", f"{manifest.codec} ({manifest.dtype})"),
            ("locations", f"{manifest.locations:,}"),
            ("patches", f"{manifest.patches:,}"),
            ("shards", f"{len(manifest.shards):,}"),
            ("size", _size(holding.num_bytes)),
            ("a patch", f"{kb:.1f} KB"),
            ("uncompressed", f"{raw_kb:.0f} KB"),
            ("compression", f"{raw_kb / kb:.1f} ×"),
            ("manifest", manifest.hash[:12]),
        ],
        pages=" | ".join(" ".join(names) for names in manifest.pages),
        clouds=(
            f"{product.title}: median {np.median(clouds):.1f} %, "
            f"{(clouds <= CLEAR_PERCENT).mean() * 100:.0f} % of the patches have "
            f"{CLEAR_PERCENT} % or less."
            if clouds.size
            else ""
        ),
        unit=unit,
        sampled=sampled,
        patches=manifest.patches,
        bands=[
            _BandView(
                name=band.name,
                metres=band.resolution_metres,
                chart=figures.band_histogram(
                    each, band, scale=scale, offset=offset, product=number
                ),
                mean=f"{each.mean:.{digits}f} ± {each.std:.{digits}f}",
                paper=f"{band.mean:.{digits}f} ± {band.std:.{digits}f}",
            )
            for band, each, (scale, offset) in zip(
                product.bands, found, bins(manifest), strict=True
            )
        ],
        colours=COLOURS[manifest.product],
        lacks=lacks(holding, others),
    )


def _site(site: Site, holdings: tuple[Holding, ...]) -> _SiteView:
    rows = [
        (holding.product.title, [_picture(each) for each in dates])
        for holding, dates in zip(holdings, site.dates, strict=True)
    ]
    return _SiteView(
        key=location_key(site.id),
        place=place_text(site.lon, site.lat),
        rows=rows,
        columns=min(6, max(len(pictures) for _, pictures in rows)),
    )


def _picture(thumbnail: Thumbnail) -> _Picture:
    data = base64.b64encode(thumbnail.picture).decode()
    cloud = thumbnail.cloud_percent
    return _Picture(
        source=f"data:{MEDIA_TYPE};base64,{data}",
        date="date unknown" if np.isnat(thumbnail.time) else _day(thumbnail.time),
        cloud="" if np.isnan(cloud) else f"cloud {cloud:.0f} %",
    )


def place_text(lon: float, lat: float) -> str:
    """Return a place in words: `48.1° N 11.6° E`."""
    return f"{abs(lat):.1f}° {'S' if lat < 0 else 'N'} {abs(lon):.1f}° {'W' if lon < 0 else 'E'}"


def _day(time: np.datetime64) -> str:
    return str(time.astype("datetime64[D]"))


def _size(num_bytes: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}"
    return f"{num_bytes / 1e6:.1f} MB"
