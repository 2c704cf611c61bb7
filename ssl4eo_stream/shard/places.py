"""Where and when: the columns of an index that are for people, as flat arrays."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Shaped

WKB_POINT = np.dtype([("head", "V5"), ("lon", "<f8"), ("lat", "<f8")])
"""A point as the index has it, `manifest.point_wkb`."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where each location lies, and what is known of each date, in the order of the index."""

    lon: Float64[np.ndarray, " n"]
    """Longitudes of the patch centres, degrees (WGS 84)."""
    lat: Float64[np.ndarray, " n"]
    """Latitudes of the patch centres, degrees (WGS 84)."""
    times: Shaped[np.ndarray, " d"]
    """Sensing times, datetime64[s], UTC; NaT where unknown."""
    cloud_percent: Float64[np.ndarray, " d"]
    """Cloud cover of each date's scene in percent; NaN where unknown, and of Sentinel-1."""

    @classmethod
    def from_parquet(cls, data: bytes) -> "Places":
        """Read the bytes of an `index.parquet` that `Index.from_parquet` has read."""
        columns = ["geometry", "time", "cloud_percent"]
        table = pq.read_table(pa.BufferReader(data), columns=columns)
        points = np.frombuffer(b"".join(table["geometry"].to_pylist()), WKB_POINT)
        times, cloud = (
            table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            for name in ("time", "cloud_percent")
        )
        return cls(
            lon=points["lon"].astype(np.float64),
            lat=points["lat"].astype(np.float64),
            times=times.astype("datetime64[s]"),
            cloud_percent=cloud.astype(np.float64),
        )

    @property
    def known_times(self) -> Shaped[np.ndarray, " k"]:
        """Those of the times that are known."""
        return self.times[~np.isnat(self.times)]

    @property
    def known_cloud(self) -> Float64[np.ndarray, " k"]:
        """Those of the cloud covers that are known."""
        return self.cloud_percent[~np.isnan(self.cloud_percent)]
