"""Pages that are put together from headers made before, byte for byte as tifffile writes them."""

import io

import imagecodecs
import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl4eo_stream.geotiff import Codec, PageContent, grid_tags, write

CODECS = {"jpeg:75": ["uint8"], "zstd": ["uint8"], "zstd16": ["uint8", "uint16", "float32"]}


def by_tifffile(pages, *, codec):
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink, byteorder="<") as writer:
        for page in pages:
            dtype = page.bands[0].dtype
            if codec.name == "jpeg":
                pixels = iter(
                    [imagecodecs.jpeg8_encode(b, codec.quality, optimize=True) for b in page.bands]
                )
                how = {"compression": "jpeg"}
            else:
                pixels = np.stack(page.bands)
                how = {"compression": "zstd", "predictor": 3 if dtype.kind == "f" else 2}
            height, width = page.bands[0].shape
            writer.write(
                pixels, **how, shape=(len(page.bands), height, width), dtype=dtype,
                photometric="minisblack", planarconfig="separate", rowsperstrip=height,
                metadata=None, software=False, description=page.description,
                extratags=[(tag, *value, True) for tag, value in sorted(page.geo.items())],
                maxworkers=1,
            )  # fmt: skip
    return sink.getvalue()


GEO = grid_tags(epsg=32632, left=512_345.5, top=5_000_000.25, pixel_metres=10)
PAGES = st.lists(
    st.fixed_dictionaries(
        {
            "bands": st.integers(2, 5),
            "shape": st.tuples(st.integers(1, 300), st.integers(1, 300)),
            "spread": st.sampled_from([1, 255]),  # strips of a few bytes, and of thousands
            "geo": st.sampled_from([{}, GEO]),
            "description": st.text("sc12 AB", min_size=1, max_size=30),
        }
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(codec=st.sampled_from(sorted(CODECS)), pages=PAGES, data=st.data())
def test_the_bytes_are_those_of_tifffile(codec, pages, data):
    noise = np.random.default_rng(0)
    contents = []
    for page in pages:
        dtype = data.draw(st.sampled_from(CODECS[codec]))
        bands = [
            (noise.random(page["shape"]) * page["spread"]).astype(dtype)
            for _ in range(page["bands"])
        ]
        contents.append(PageContent(bands=bands, geo=page["geo"], description=page["description"]))
    how = Codec.parse(codec)
    assert write(contents, codec=how) == by_tifffile(contents, codec=how)
