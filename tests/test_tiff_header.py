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


@st.composite
def contents(draw):
    codec = draw(st.sampled_from(sorted(CODECS)))
    pages = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
        dtype = draw(st.sampled_from(CODECS[codec]))
        noise = np.random.default_rng(draw(st.integers(0, 1 << 30)))
        spread = draw(st.sampled_from([1, 255]))  # strips of a few bytes, and of thousands
        pages.append(
            PageContent(
                bands=[
                    (noise.random(shape) * spread).astype(dtype)
                    for _ in range(draw(st.integers(2, 5)))
                ],
                geo=draw(
                    st.sampled_from(
                        [
                            {},
                            grid_tags(
                                epsg=32632, left=draw(st.floats(0, 1e6)), top=5e6, pixel_metres=10
                            ),
                        ]
                    )  # fmt: skip
                ),
                description=draw(st.text("sc12 AB", min_size=1, max_size=30)),
            )
        )
    return Codec.parse(codec), pages


@settings(max_examples=150, deadline=None)
@given(content=contents())
def test_the_bytes_are_those_of_tifffile(content):
    codec, pages = content
    assert write(pages, codec=codec) == by_tifffile(pages, codec=codec)
