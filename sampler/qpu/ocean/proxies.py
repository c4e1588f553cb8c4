"""What is needed to reach a URL, beside the URL: proxies and certificates of the environment."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from qshower.sampler.errors import SolverConfigurationError

_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def url_fault(url: str, *, proxy: bool = False) -> str | None:
    """What is wrong with ``url``, without showing it, None if nothing is. A proxy's may do without a scheme."""
    if proxy and "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:  # a UnicodeError is one
        return f"is no URL: {error}" if not isinstance(error, UnicodeError) else "is no URL: its host is no host's name"
    if parts.scheme not in ("http", "https", *(_SOCKS if proxy else ())):
        return f"is no URL that begins with http:// or https://{' or socks5://' if proxy else ''}"
    if not host or any(blank in url for blank in " \t\r\n"):
        return "is no URL: it names no host" if not host else "is no URL: it holds a blank"
    if parts.scheme in _SOCKS and find_spec("socks") is None:
        return "names a SOCKS proxy, which takes PySocks: pip install 'requests[socks]'"
    return None


def check_proxies(url: str) -> None:
    """SolverConfigurationError if the environment's proxy for ``url`` cannot be used."""
    chosen = select_proxy(url, get_environ_proxies(url))
    what = url_fault(chosen, proxy=True) if chosen else None
    if what is not None:
        raise SolverConfigurationError(f"{_variable_of(url, chosen)}: {what}")


def check_certificates(url: str) -> None:
    """SolverConfigurationError if ``url`` is https and the certificates that the environment names are not there."""
    if urlsplit(url).scheme != "https":
        return
    named = next(((name, os.environ[name]) for name in _CERTIFICATES if os.environ.get(name)), None)
    if named is not None and not Path(named[1]).exists():
        raise SolverConfigurationError(f"{named[0]}: there is no file or folder {named[1]!r}")


def _variable_of(url: str, chosen: str | None) -> str:
    """The environment variable that ``chosen`` is from."""
    wanted = (f"{urlsplit(url).scheme}_proxy", "all_proxy")
    names = [name for want in wanted for name in sorted(os.environ, reverse=True) if name.lower() == want]
    return next((name for name in names if os.environ[name] == chosen), "the system's proxy settings")
