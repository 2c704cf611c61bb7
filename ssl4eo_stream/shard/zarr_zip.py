"""Zarr version 2 in a zip, as xarray writes it -> arrays.

What one member of SSL4EO-S12 v1.1 needs: chunks of any shape, missing ones, Blosc or none, text.
Twice as fast as the zarr package, which is the oracle of its tests; the rest of Zarr is refused.
"""

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
from jaxtyping import Shaped

from ssl4eo_stream.errors import SourceError

DAMAGES = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, LookupError, TypeError,
    ValueError, OverflowError, RuntimeError,
)  # fmt: skip
"""What reading a damaged or foreign member raises; imagecodecs' errors are RuntimeErrors."""
TEXT = [{"id": "vlen-utf8"}]
"""The filter of arrays of text of any length."""


class ZarrZip:
    """The arrays of one zipped Zarr group, read one by one."""

    def __init__(self, data: bytes, *, name: str) -> None:
        """Read the zip's table of contents.

        Args:
            data: The zip.
            name: What messages call it.

        Raises:
            SourceError: It is no zip, or cut.
        """
        self.name = name
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except DAMAGES as error:
            raise SourceError(f"{name} is no zip, or cut: {error}.") from error
        self._files = set(self._zip.namelist())

    def __contains__(self, variable: str) -> bool:
        return f"{variable}/.zarray" in self._files

    def shape(self, variable: str) -> tuple[int, ...]:
        """Return the shape of an array.

        Raises:
            SourceError: There is no such array, or its description can't be read.
        """
        try:
            return tuple(self._description(variable)["shape"])
        except DAMAGES as error:
            raise self._refused(variable, error) from error

    def attributes(self, variable: str) -> dict[str, Any]:
        """Return what is said of an array: `units` and the like.

        Raises:
            SourceError: It can't be read.
        """
        name = f"{variable}/.zattrs"
        try:
            return json.loads(self._zip.read(name)) if name in self._files else {}
        except DAMAGES as error:
            raise self._refused(variable, error) from error

    def read(self, variable: str) -> Shaped[np.ndarray, "..."]:
        """Return an array, in its own type; texts of any length as objects.

        Raises:
            SourceError: There is no such array, it is damaged, or stored in another way than
                Zarr version 2 with Blosc or no compression.
        """
        try:
            return self._read(variable)
        except DAMAGES as error:
            raise self._refused(variable, error) from error

    def scalar(self, variable: str) -> Any:  # noqa: ANN401 - what it is, the file says
        """Return the only value of an array, as a Python object.

        Raises:
            SourceError: It can't be read, or holds several.
        """
        array = self.read(variable)
        if array.size != 1:
            raise SourceError(f"{self.name}: {variable} holds {array.size} values, not one.")
        return array.item()

    def _refused(self, variable: str, error: BaseException) -> SourceError:
        return SourceError(f"{self.name}: {variable} can't be read: {error}.")

    def _description(self, variable: str) -> dict[str, Any]:
        if variable not in self:
            raise ValueError("there is no such array")
        return json.loads(self._zip.read(f"{variable}/.zarray"))

    def _read(self, variable: str) -> np.ndarray:
        about = self._description(variable)
        compressor, filters = about["compressor"], about["filters"] or []
        if about["zarr_format"] != 2 or (compressor and compressor["id"] != "blosc"):
            raise ValueError(f"format {about['zarr_format']} and {compressor} are not known")
        if filters and filters != TEXT:
            raise ValueError(f"filters {filters} are not known")
        shape, chunks = about["shape"], about["chunks"]
        dtype, order = np.dtype(about["dtype"]), about["order"]
        fill = about["fill_value"]
        out = np.zeros(shape, dtype) if fill is None else np.full(shape, fill, dtype)
        counts = [math.ceil(n / chunk) for n, chunk in zip(shape, chunks, strict=True)]
        for index in product(*map(range, counts)):
            key = about.get("dimension_separator", ".").join(map(str, index)) or "0"
            if f"{variable}/{key}" not in self._files:
                continue
            data = self._zip.read(f"{variable}/{key}")
            if compressor:
                (length,) = struct.unpack_from("<I", data, 12)  # imagecodecs believes the header
                if length != len(data):
                    raise ValueError(f"chunk {key} has {len(data)} bytes of {length}")
                data = imagecodecs.blosc_decode(data)
            flat = np.array(_texts(data), object) if filters else np.frombuffer(data, dtype)
            there = tuple(
                slice(i * chunk, min((i + 1) * chunk, n))
                for i, chunk, n in zip(index, chunks, shape, strict=True)
            )
            here = tuple(slice(0, each.stop - each.start) for each in there)
            out[there] = flat.reshape(chunks, order=order)[here]
        return out


def _texts(data: bytes | bytearray) -> Sequence[str]:
    """Texts as numcodecs' VLenUTF8 packs them: their number, then each one's length and bytes."""
    (count,) = struct.unpack_from("<I", data)
    texts, start = [], 4
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, start)
        texts.append(data[start + 4 : start + 4 + length].decode())
        start += 4 + length
    return texts
