"""One door to bytes: `file`, `http(s)`, `s3`, `gs`, `az` through obstore; ranges and retries.

Settings come from the usual environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`) or `storage_options`. A
read that is cut or stalls is taken up again at the exact byte by obstore, with exponential backoff.
Stores must be opened after a process is started, never before a fork.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from ssl4eo_stream.errors import StorageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

TIMEOUTS: "ClientConfig" = {"connect_timeout": "10s", "read_timeout": "20s", "timeout": "600s"}
"""`read_timeout` is what notices a stalled connection; obstore leaves it off by default."""
RETRIES: "RetryConfig" = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}

ADVICE = {
    "NotFoundError": "Check the URL; a data set's URL is the folder that holds manifest.json.",
    "FileNotFoundError": "Check the URL; a data set's URL is the folder that holds manifest.json.",
    "PermissionDeniedError": "Check that the credentials in the environment may read it.",
    "UnauthenticatedError": "Set credentials in the environment (AWS_*, GOOGLE_*, AZURE_*), or "
    "pass storage_options={'skip_signature': True} for a public bucket.",
}


def as_url(location: str | Path) -> str:
    """Return a URL; what has no scheme is a local path."""
    text = str(location)
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        return text.rstrip("/")
    return Path(text).expanduser().absolute().as_uri()


def without_credentials(url: str) -> str:
    """Return the URL as it may be shown: no user, password or query."""
    return re.sub(r"://[^/@]*@", "://", url).split("?")[0]


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of objects at a URL."""

    url: str
    """Where it lies, without credentials: what messages show."""
    handle: "ObjectStore" = field(repr=False)
    """The obstore client."""

    @classmethod
    def open(cls, location: str | Path, *, options: Mapping[str, Any] | None = None) -> "Store":
        """Open a store; nothing is read yet.

        Args:
            location: URL of a folder, or a local path.
            options: obstore's configuration of the scheme (for s3 `region`, `endpoint`, …),
                over what the environment says.

        Raises:
            StorageError: The URL, an option, or a local folder does not exist.
        """
        url = as_url(location)
        shown = without_credentials(url)
        if url.startswith("file://") and not Path(url2pathname(urlsplit(url).path)).is_dir():
            raise StorageError(f"Cannot open {shown}: there is no such folder. Check the path.")
        try:
            if url.startswith("file://"):
                if options:
                    raise StorageError(f"storage_options have no meaning for the folder {shown}.")
                return cls(url=shown, handle=from_url(url))
            client: ClientConfig = {**TIMEOUTS, "allow_http": url.startswith(("http://", "s3://"))}
            settings: dict[str, Any] = {"config": dict(options)} if options else {}
            handle = from_url(url, client_options=client, retry_config=RETRIES, **settings)
            return cls(url=shown, handle=handle)
        except (BaseError, ValueError, OSError) as error:
            raise StorageError(_message(f"Cannot open {shown}", error)) from error

    @property
    def is_local(self) -> bool:
        """Whether reads come from this machine's file system."""
        return self.url.startswith("file://")

    def read(self, path: str) -> bytes:
        """Return a whole object.

        Raises:
            StorageError: It is not there, or could not be read.
        """
        try:
            return bytes(obstore.get(self.handle, path).bytes())
        except (BaseError, OSError) as error:
            raise StorageError(_message(f"Cannot read {self.url}/{path}", error)) from error

    def read_range(self, path: str, *, start: int, end: int) -> memoryview:
        """Return the bytes [start, end) of an object.

        Raises:
            StorageError: It is not there, too short, or could not be read.
        """
        where = f"{self.url}/{path}, bytes {start}-{end}"
        try:
            data = memoryview(obstore.get_range(self.handle, path, start=start, end=end))
        except (BaseError, OSError) as error:
            raise StorageError(_message(f"Cannot read {where}", error)) from error
        if len(data) != end - start:
            raise StorageError(
                f"{where}: the object ends {end - start - len(data)} bytes early; "
                "it was cut or replaced. Upload it again, or run ssl4eo-shard verify."
            )
        return data


def _message(what: str, error: Exception) -> str:
    """Say what failed and what to do, without obstore's debug text (it can hold signed URLs)."""
    cause = str(error).split("\n\nDebug source")[0].strip().split("\n")[0]
    cause = re.sub(r"\?[^ )]*", "", without_credentials_in(cause))
    advice = ADVICE.get(type(error).__name__, "")
    return f"{what}: {type(error).__name__}: {cause}. {advice}".rstrip()


def without_credentials_in(text: str) -> str:
    """Return text with the user and password of every URL in it left out."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def coalesce(
    spans: Sequence[tuple[int, int]], *, gap_bytes: int, limit_bytes: int
) -> list[tuple[int, int]]:
    """Merge spans [start, end), sorted by start, into the ranges worth one request each.

    Args:
        spans: Non-overlapping spans in order.
        gap_bytes: Unwanted bytes between two spans that are cheaper to read than a request.
        limit_bytes: No merged range grows past this; a longer span stays whole.
    """
    ranges: list[tuple[int, int]] = []
    for start, end in spans:
        if ranges and start - ranges[-1][1] <= gap_bytes and end - ranges[-1][0] <= limit_bytes:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges
