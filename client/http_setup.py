"""How a client reaches its service: URL, API key, and the proxies and certificates of the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from qshower.client.client_errors import ClientConfigurationError

CONNECT_TIMEOUT_S = 10.0
PROXY_SCHEMES = ("http", "https", "all")
Pool = TypeVar("Pool", httpx2.Client, httpx2.AsyncClient)
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def checked_url(url: str) -> str:
    """``url`` without a slash at its end; ClientConfigurationError unless it is one of HTTP."""
    try:
        known = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError) as error:
        raise ClientConfigurationError(f"{url!r} is no URL: {error}") from None
    if known.scheme not in ("http", "https") or not known.host:
        raise ClientConfigurationError(f"{url!r} is no URL that begins with http:// or https:// and a host")
    return url.rstrip("/")


def headers_of(api_key: str | None) -> dict[str, str]:
    """The headers that a key is sent in; ClientConfigurationError, without the key, if none can hold it."""
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ClientConfigurationError("the API key has a blank, or a character that is not printable ASCII")
    return {"Authorization": f"Bearer {key}"} if key else {}


def open_http(kind: Callable[[], Pool]) -> Pool:
    """A pool of connections, through the environment's proxies.

    Raises:
        ClientConfigurationError: a proxy or a file of certificates that the environment names cannot be used; names the
            variable and never shows its value, which may hold a password.
    """
    try:
        return kind()
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise ClientConfigurationError(_faulty_proxy() or str(error)) from error
    except OSError as error:
        named = next((name for name in CERTIFICATES if os.environ.get(name)), None)
        if named is None:
            raise
        said = f"{named}: {error.strerror or error}; certificates are read from there"
        raise ClientConfigurationError(said) from error


def proxy_variable(url: str) -> str | None:
    """The variable whose proxy stands between here and ``url``, None if there is none."""
    parts, known = urlsplit(url), getproxies()
    if proxy_bypass(parts.hostname or ""):
        return None
    return next((_variable(scheme) for scheme in (parts.scheme, "all") if known.get(scheme)), None)


def _faulty_proxy() -> str | None:
    """What is wrong with the first proxy of the environment that cannot be used."""
    known = getproxies()
    for scheme in PROXY_SCHEMES:
        proxy = known.get(scheme, "")
        if not proxy:
            continue
        try:
            httpx2.HTTPTransport(proxy=httpx2.Proxy(proxy if "://" in proxy else f"http://{proxy}")).close()
        except ImportError:
            needed = "pip install 'httpx2[socks]', or unset it"
            return f"{_variable(scheme)} names a SOCKS proxy, which needs one more package: {needed}"
        except (ValueError, httpx2.InvalidURL):
            return f"{_variable(scheme)} is no URL of a proxy, such as http://HOST:PORT or socks5://HOST:PORT"
    return None


def _variable(scheme: str) -> str:
    """The name as it is in the environment; the lower case goes first, as urllib has it."""
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), "the system's proxy setting")
