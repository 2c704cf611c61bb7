"""What a failed request means: whether it may pass, its cause and what to do, without any secret.

Reads the words of the client's errors, not the client: its types are as few as one for most causes,
and its debug text, which can hold signed URLs, is never shown.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from ssl4eo_stream.errors import MissingError, StorageError
from ssl4eo_stream.retry import Passing

PUBLIC = "pass storage_options={'skip_signature': True} for a public bucket"
NO_CREDENTIALS = (
    "No credentials were found, and this machine's metadata service gives none. Set them in the "
    "environment (AWS_*, GOOGLE_*, AZURE_*; files like ~/.aws/credentials are not read), or "
    f"{PUBLIC}."
)
CUT = "it was cut or replaced. Upload it again, or run ssl4eo-shard verify."
REPLACED = (
    "the object was replaced while it was read. Shards must not change under a run: put the old "
    "ones back, or start a new run once the upload is complete."
)
NOT_FOUND = "Check the URL; a data set's URL is the folder that holds manifest.json."
ADVICE = {
    400: "Check region, endpoint and credentials, which may have expired.",
    401: f"Set credentials in the environment (AWS_*, GOOGLE_*, AZURE_*), or {PUBLIC}.",
    403: f"Check that the credentials in use may do this, or {PUBLIC}.",
    404: NOT_FOUND,
    412: f"Its ETag changed: {REPLACED}",
    416: f"The object ends before these bytes: {CUT}",
}
"""What to do about an answer that stays the same."""
PASSING = {408, 425, 429, *range(500, 600)}
"""Answers that may be others at the next attempt."""
KINDS = {
    "Connect": "no connection",
    "Timeout": "no answer in time",
    "Request": "the connection broke",
    "Interrupted": "the connection was cut",
}
"""obstore's word for a failed request -> what happened."""
SIGN_IN = re.compile(r"token request|/latest/(api|meta-data)|computeMetadata|169\.254\.169\.254")
"""Tells the machine's metadata service and other givers of credentials from the storage."""
HARMLESS = re.compile(r"(^|_)(region|endpoint|url|bucket|bucket_name|account_name|container_name)$")
"""Options whose values may be shown."""
USER = re.compile(r"://(?:[^/?#]*@|[^/?#:]*:(?!\d*(?:[/?#]|$)).*@)", re.DOTALL)
"""User and password of a URL; what follows a colon and is no port is a password to its last `@`."""
USER_IN_TEXT = re.compile(r"://(?:[^/?#\s]*@|[^/?#:\s]*:(?!\d*(?:[/?#\s]|$))\S*@)")
"""The same for a URL that ends at a space."""
SECRET_VARIABLES = re.compile(r"(AWS|GOOGLE|AZURE)_.*(KEY|SECRET|TOKEN|SAS|PASSWORD)")
SHORTEST_SECRET = 5
"""Shorter words are not looked for in messages: they would be found everywhere."""


def without_credentials(url: str) -> str:
    """Return the URL as it may be shown: no user, password or query."""
    return USER.sub("://", url).split("?")[0]


@dataclass(frozen=True, kw_only=True)
class Redactor:
    """Takes secrets out of texts."""

    secrets: tuple[str, ...] = ()
    """What must not be shown, longest first."""

    @classmethod
    def of(cls, url: str, options: Mapping[str, Any] | None) -> "Redactor":
        """Return one that knows the secrets of a URL, its options and the environment."""
        user = "".join(USER.findall(url))[len("://") : -1]
        query = url.partition("?")[2]
        texts = [user, *user.split(":"), query, *re.split(r"[&=]", query)]
        texts += [str(v) for k, v in (options or {}).items() if not HARMLESS.search(k.lower())]
        texts += [value for name, value in os.environ.items() if SECRET_VARIABLES.match(name)]
        words = [word for text in texts for word in (text, *re.split(r"[\s\"'\\,:{}()]+", text))]
        found = {each for word in words for each in (word, unquote(word))}
        long = [each for each in found if len(each) >= SHORTEST_SECRET]
        return cls(secrets=tuple(sorted(long, key=len, reverse=True)))

    def __call__(self, text: str) -> str:
        """Return the text without them, and without users and queries of URLs."""
        for secret in self.secrets:
            text = text.replace(secret, "…")
        return re.sub(r"\?[^ )]*", "", USER_IN_TEXT.sub("://", text))


def explain(error: Exception, *, what: str, redact: Redactor) -> Passing | StorageError:
    """Say what an error of the client means.

    Args:
        error: What obstore raised.
        what: What could not be done, for the message: "Cannot read s3://…".
        redact: Takes secrets out.

    Returns:
        `Passing` for what is worth another attempt, else the error to raise; for what is not there
        `MissingError`.
    """
    said, _, debug = str(error).partition("\n\nDebug source")
    said = re.sub(r"^Generic \w+ error: ", "", said.strip().split("\n")[0])
    sign_in = bool(SIGN_IN.search(said))
    status = re.search(r"status code: (\d{3})", said)
    code = int(status[1]) if status else 0
    if code:
        known = code in set(HTTPStatus)
        named = re.search(r"<Code>(\w+)</Code>", str(error))
        cause = f"the server answered {code} {HTTPStatus(code).phrase if known else ''}".rstrip()
        cause += f" ({named[1]})" if named else ""
        passing = code in PASSING
    else:
        kind = re.search(rf"\bkind: ({'|'.join(KINDS)})\b", debug)
        cause = KINDS[kind[1]] if kind else said
        detail = re.search(r'(?:message|error): "([^"]*)"', debug) if kind else None
        cause += f" ({detail[1]})" if detail else ""
        distrusted = bool(kind) and "certificate" in debug.lower()
        cause = "the server's certificate is not trusted" if distrusted else cause
        passing = "HTTP error: " in said and not distrusted
    cause = redact(("asking for credentials, " if sign_in else "") + cause)
    advice = NO_CREDENTIALS if sign_in else ADVICE.get(code, "")
    if passing:
        return Passing(cause, advice=advice, sign_in=sign_in)
    if cause.endswith("not trusted"):
        advice = "Check the URL, this machine's clock, and its root certificates."
    if not code and "redirect without LOCATION" in said:
        advice = "Set the bucket's region: AWS_REGION, or storage_options={'region': …}."
    missing = code == 404 or (not code and isinstance(error, FileNotFoundError))
    if missing and not code:
        cause, advice = "there is no such object", NOT_FOUND
    if type(error).__name__ == "NotSupportedError" or "non-partial" in said:
        advice = "The server must answer byte ranges (206); serve the shards with one that does."
    return (MissingError if missing else StorageError)(f"{what}: {cause}. {advice}".rstrip())
