"""``qshower samplers``."""

from __future__ import annotations

import shutil
import time
from typing import Any

import orjson

from qshower.service.commands.sampler_lines import lines_of
from qshower.service.commands.terminal import show_warnings


def run(url: str | None, api_key: str | None, *, connect_wait_s: float = 0.0, as_json: bool) -> None:
    """Print the state of every sampler, of this machine or of a server."""
    states = _of_server(url, api_key, connect_wait_s) if url is not None else _of_this_machine()
    if as_json:
        print(orjson.dumps({"samplers": states}, option=orjson.OPT_INDENT_2).decode())
        return
    columns = shutil.get_terminal_size().columns
    for state in states:
        print(*lines_of(state, columns), sep="\n")


def _of_server(url: str, api_key: str | None, connect_wait_s: float) -> list[dict[str, Any]]:
    from qshower.client import Client

    show_warnings()
    with Client(url, api_key, longest_wait_s=0.0, connect_wait_s=connect_wait_s, sleep=time.sleep) as client:
        return client.samplers()


def _of_this_machine() -> list[dict[str, Any]]:
    from qshower.service.catalogue import load_catalogue
    from qshower.service.generation.sampler_status import SamplerStatus
    from qshower.service.generation.selection import Selection
    from qshower.service.logs import configure_logs
    from qshower.service.sampler_table import SAMPLERS, build_registry
    from qshower.service.settings import load_settings

    settings = load_settings(log_level="warning")
    configure_logs(settings)
    with build_registry(settings) as registry:
        status = SamplerStatus(Selection(load_catalogue(settings), registry))
        return [status.of(name).model_dump() for name in SAMPLERS]
