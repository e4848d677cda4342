"""Who may ask: names of the host, a token, HTTPS; and answers that nobody keeps."""

import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from metasd.errors import InputError
from service_model import call, exchange, post, served

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from metasd.service.access import read_token
from metasd.service.protocol import client_name

TOKEN = "a-token"


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[str]:
    """A server with a token and a name of its own."""
    file = folder.with_name("token")
    file.write_text(f"{TOKEN}\n")
    options = ("--port", "0", "--token-file", file, "--allowed-host", "Graph.example")
    with served("-m", "metasd", "serve", folder, *options) as (address, _):
        yield address


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((name, 200) for name in ("localhost", "127.0.0.1:80", "[::1]:8000", "LOCALHOST:1")),
        *((name, 400) for name in ("evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "[::1")),
        *((name, 400) for name in ("evil.com:8000", "localhost, evil.com", "")),
    ],
)
def test_only_names_of_this_machine_are_answered(address: str, host: str, status: int) -> None:
    assert call(address, "GET", "/healthz", Host=host)[0] == status


def test_two_names_or_none_are_refused(address: str) -> None:
    two = post(b"{}").replace(b"Host: localhost\r\n", b"Host: localhost\r\nHost: evil.com\r\n")
    none = post(b"{}").replace(b"Host: localhost\r\n", b"").replace(b"HTTP/1.1", b"HTTP/1.0")
    for request in (two, none):
        assert exchange(address, request).startswith(b"HTTP/1.1 400")


def test_a_further_name_and_a_token(guarded: str) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert call(guarded, "GET", "/healthz", Host="graph.example:99", **right)[0] == 200
    assert call(guarded, "GET", "/healthz", Host="other.example", **right)[0] == 400
    for wrong in ({}, {"Authorization": "Bearer a"}, {"Authorization": TOKEN}):
        status, found, headers = call(guarded, "GET", "/healthz", **wrong)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer" in found["error"]
    assert call(guarded, "GET", "/")[0] == 200  # the page without data
    responses = call(guarded, "GET", "/openapi.json", **right)[1]["paths"]["/predict"]["post"]
    assert {"400", "401", "413", "415", "422", "503"} <= set(responses["responses"])


def test_answers_are_not_kept(address: str) -> None:
    for path in ("/", "/healthz", "/none", "/openapi.json"):
        assert call(address, "GET", path)[2]["Cache-Control"] == "no-store"


@pytest.mark.parametrize("text", ["", "two words", "two\nlines", "é"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(InputError, match="wanted one line of visible ASCII"):
        read_token(tmp_path / "token")


def test_the_network_of_an_address_is_one_client() -> None:
    assert client_name("10.0.0.1") == "10.0.0.1"
    assert client_name("2001:db8::1") == client_name("2001:db8::ffff:1") == "2001:db8::/64"
    assert client_name("2001:db8:0:1::1") != client_name("2001:db8::1")
    assert client_name("::ffff:10.0.0.1") == "10.0.0.1"


@pytest.mark.slow
def test_https(folder: Path, tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext"
    names = (*command.split(), "subjectAltName=DNS:localhost,IP:127.0.0.1")
    files = ("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem")
    try:
        subprocess.run([*names, *files], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl here")
    tls = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    with served("-m", "metasd", "serve", folder, "--port", "0", *tls) as (address, _):
        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with urllib.request.urlopen(f"https://{address}/healthz", context=trusted) as response:
            assert response.status == 200
