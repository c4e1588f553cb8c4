"""The client and ``--url`` behind a proxy, with certificates, keys and URLs that cannot be used: one line each."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from qshower.client import Client, ClientConfigurationError, ConnectionFailedError

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
BAD = {
    "socks5://user:geheim@127.0.0.1:9": "names a SOCKS proxy, which needs one more package: pip install 'httpx2[soc",
    "socks4://geheim:1": "is no URL of a proxy",
    "ftp://geheim:1": "is no URL of a proxy",
    "http://geheim:port": "is no URL of a proxy",
    "geheim:port": "is no URL of a proxy",
    "http://[::1": "is no URL of a proxy",
    "\u200bhttp://geheim:1": "is no URL of a proxy",
}
COMMANDS = {
    "samplers": ["samplers"],
    "generate": ["generate", "--energies-mev", "2000", "-o", "out.hdf5"],
}


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    # Whether socksio is installed here or not.
    monkeypatch.setitem(sys.modules, "socksio", None)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ClientConfigurationError) as caught:
        Client("http://127.0.0.1:9")
    assert str(caught.value).startswith(f"{name} {BAD[value]}")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:9", "http://geheim:port"])
@pytest.mark.parametrize("name", PROXIES[:3])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_behind_a_proxy_that_cannot_be_used(
    fails: Any, environment: pytest.MonkeyPatch, command: str, name: str, value: str
) -> None:
    environment.setenv(name, value)
    said = fails(2, *COMMANDS[command], "--url", "http://127.0.0.1:9")
    assert said.startswith(f"qshower: {name} {BAD.get(value, 'names a SOCKS proxy')}")


def test_a_proxy_that_refuses_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:geheim@127.0.0.1:9")
    with Client("http://192.0.2.1:1") as client, pytest.raises(ConnectionFailedError) as caught:
        client.models()
    assert "it goes through the proxy of HTTP_PROXY" in str(caught.value)
    assert "geheim" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Client("http://127.0.0.1:9") as client, pytest.raises(ConnectionFailedError, match="qshower serve"):
        client.models()


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(ClientConfigurationError, match="SSL_CERT_FILE: No such file"):
        Client("https://127.0.0.1:9")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "localhost", "ftp://localhost", "http://", "http://localhost:port", "http://[::1", ""]
)
def test_a_url_that_is_none(fails: Any, url: str) -> None:
    with pytest.raises(ClientConfigurationError, match="no URL"):
        Client(url)
    assert repr(url) in fails(2, "samplers", "--url", url)


def test_a_key_that_no_header_holds() -> None:
    for key in ("geheim\u200b", "gehe im", "gehe\nim"):
        with pytest.raises(ClientConfigurationError, match="the API key has a blank") as caught:
            Client(api_key=key)
        assert "gehe" not in str(caught.value)
    Client(api_key=" key\n").close()
