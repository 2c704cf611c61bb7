"""What is said about failures: cause and way out, and never a secret."""

import logging
import re
import shutil
import socket
import ssl
import subprocess
import traceback
from contextlib import contextmanager
from dataclasses import replace

import pytest
from fault_cases import IMPATIENT
from fault_server import FOREVER, Fault, http_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.store import Store, without_credentials

QUICK = replace(IMPATIENT, give_up_seconds=0.05)
SECRETS = st.text("abcXYZ0189-_.~%+=/:@ ?#", min_size=8, max_size=30).filter(
    lambda text: len(set(text)) > 5 and not re.match(r"\d*[/?#]", text)  # those are ports
)
WORDS = st.text("abcXYZ0189", min_size=8, max_size=30)


@contextmanager
def telling(caplog):
    """Gather all that is said: messages, tracebacks with all their causes, logs."""
    caplog.clear()
    told = []
    with caplog.at_level(logging.DEBUG):
        try:
            yield told
        except (StorageError, ValueError) as error:
            told += [repr(error), *traceback.format_exception(error)]
            while error:
                told.append(str(error))
                error = error.__cause__ or error.__context__
    told += [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    (folder / "a").write_bytes(b"x" * 5000)
    with http_server(folder) as running:
        yield running


FAULTS = {
    "refused": Fault("status", code=403, times=FOREVER),
    "unavailable": Fault("status", times=FOREVER),
    "reset": Fault("reset", times=FOREVER),
    "cut": Fault("cut", times=FOREVER, after=0),
}


@pytest.mark.parametrize("fault", FAULTS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(user=WORDS, password=WORDS, signature=WORDS)
def test_no_secret_of_a_url(server, caplog, fault, user, password, signature):
    server.faults[:] = [replace(FAULTS[fault])]
    url = server.url.replace("://", f"://{user}:{password}@") + f"?sig={signature}&se=2030"
    with telling(caplog) as told:
        store = Store.open(url, retry=QUICK)
        told.append(repr(store))
        store.read_range("a", start=0, end=5000)
    assert "Cannot read" in "".join(told)
    assert not [s for s in (user, password, signature) if s in "\n".join(told)]


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "gs", "az", "ftp"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(secret=SECRETS)
def test_no_secret_of_a_url_that_is_malformed(caplog, scheme, secret):
    for url in (f"{scheme}://user:{secret}@host:99999/x", f"{scheme}://bucket/x?token={secret}"):
        with telling(caplog) as told:
            told.append(repr(Store.open(url, retry=QUICK)))
        assert secret not in "\n".join(told)


@pytest.mark.parametrize("fault", FAULTS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=WORDS, secret=WORDS, token=WORDS)
def test_no_secret_of_the_options(server, caplog, fault, key, secret, token):
    server.faults[:] = [replace(FAULTS[fault])]
    options = {"endpoint": server.url, "access_key_id": key, "secret_access_key": secret,
               "token": token, "region": "here"}  # fmt: skip
    with telling(caplog) as told:
        store = Store.open("s3://ssl4eo", options=options, retry=QUICK)
        told.append(repr(store))
        store.read_range("a", start=0, end=5000)
    assert "Cannot read s3://ssl4eo/a" in "".join(told)
    assert not [s for s in (key, secret, token) if s in "\n".join(told)]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://b/x", {"skip_signature": "s3cr3t-value"}),
        ("gs://b/x", {"service_account_key": '{"private_key": "s3cr3t-value"}'}),
        ("gs://b/x", {"service_account_key": "s3cr3t-value"}),
        ("az://b/x", {"account_name": "a", "account_key": "s3cr3t-value"}),
        ("az://b/x", {"account_name": "a", "sas_token": "sig=s3cr3t-value&%"}),
    ],
)
def test_no_secret_of_an_option_that_is_wrong(caplog, url, options):
    with telling(caplog) as told:
        Store.open(url, options=options, retry=QUICK)
    assert "s3cr3t-value" not in "\n".join(told)


def test_credentials_are_not_shown():
    shown = without_credentials("https://user:secret@host/path?X-Amz-Signature=secret")
    assert shown == "https://host/path"
    for plain in ("s3://bucket/a@b/c:d@e", "http://host:80/a@b", "file:///a/b:c@d"):
        assert without_credentials(plain) == plain
    for odd in ("http://u:p@ss@host/x", "http://u:pa/ss@host/x", "http://u:pa?ss@host/x"):
        assert without_credentials(odd) == "http://host/x"


def test_a_query_where_it_has_no_meaning_says_where_it_has():
    with pytest.raises(StorageError, match=r"az://box/x: .*sas_token"):
        Store.open("az://box/x?sig=s3cr3t", options={"account_name": "a"})


def test_a_signature_in_an_http_url_goes_with_every_request(server):
    server.faults.clear()
    server.public, signed = False, server.signed
    try:
        with pytest.raises(StorageError, match="403"):
            Store.open(server.url).read("a")
        store = Store.open(server.url + "?X-Amz-Signature=s3cr3t")
        assert len(store.read("a")) == 5000
        assert server.signed == signed + 1
    finally:
        server.public = True


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_that_nobody_vouches_for_is_not_waited_for(tmp_path):
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", "/CN=127.0.0.1", *files], check=True, capture_output=True)  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    with http_server(tmp_path, context=context) as server:
        store = Store.open(server.url.replace("http:", "https:"))
        with pytest.raises(StorageError, match=r"certificate is not trusted.*root certificates"):
            store.read("certificate")
        assert store.counters.retries == 0


@pytest.fixture
def nothing_set(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize("metadata", ["nobody", "silent"])
def test_without_credentials_a_bucket_says_so_soon(server, metadata):
    """Where no metadata service answers, and where something swallows the question."""
    server.faults.clear()
    before = sum(server.requests.values())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if metadata == "silent" else 9
        options = {"endpoint": server.url, "metadata_endpoint": f"http://127.0.0.1:{port}"}
        store = Store.open("s3://ssl4eo", options=options, retry=IMPATIENT)
        with pytest.raises(StorageError, match=r"3 attempts.*skip_signature': True") as caught:
            store.read("a")
    assert "asking for credentials" in str(caught.value)
    assert sum(server.requests.values()) == before


@pytest.mark.usefixtures("nothing_set")
def test_a_public_bucket_is_read_without_credentials(server):
    server.faults.clear()
    signed = server.signed
    options = {"endpoint": server.url, "skip_signature": True}
    assert len(Store.open("s3://ssl4eo", options=options).read("a")) == 5000
    assert server.signed == signed
