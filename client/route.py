"""Where the requests of a client go, and for how long it keeps trying."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from qshower.client.client_errors import ShowerServiceError
from qshower.client.http_setup import checked_url, headers_of

_log = logging.getLogger("qshower.client")


@dataclass(slots=True)
class Route:
    """The services of one client.

    Attributes:
        urls: of the service, and of those to fall back on.
        headers: sent with every request.
        timeout_s: longest silence of a service while it works on an answer.
        longest_wait_s: longest time, all pauses of a call together, to wait where services say when to try again.
        connect_wait_s: the same where nobody listens.
        proxied: whether the environment's proxies stand between.
        retries: how often a request was sent again.
    """

    urls: tuple[str, ...]
    headers: Mapping[str, str]
    timeout_s: float
    longest_wait_s: float
    connect_wait_s: float
    proxied: bool
    retries: int = 0
    counting: threading.Lock = field(default_factory=threading.Lock)

    def again(self, error: ShowerServiceError, how: str) -> None:
        """Log and count that a request is sent again, ``how`` saying where or when."""
        with self.counting:
            self.retries += 1
        _log.warning("%s; %s", error, how)


def route_to(
    urls: tuple[str, str | None],
    api_key: str | None,
    *,
    timeout_s: float,
    longest_wait_s: float,
    connect_wait_s: float,
    proxied: bool,
) -> Route:
    """The services of a client; ClientConfigurationError if a URL or the key cannot be used."""
    return Route(
        urls=tuple(checked_url(url) for url in urls if url is not None),
        headers=headers_of(api_key),
        timeout_s=timeout_s,
        longest_wait_s=longest_wait_s,
        connect_wait_s=connect_wait_s,
        proxied=proxied,
    )
