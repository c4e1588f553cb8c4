"""Logging: one line of text or one JSON object for each event, on standard error."""

from __future__ import annotations

import logging
import sys
import traceback

import structlog

from qshower.service.settings import Settings

MOST_FRAMES = 40
LONGEST_TRACEBACK = 16_000
LONGEST_HEAD = 4_000

_CAREFUL = {
    "dwave": logging.WARNING,  # below, its client writes its token
    "httpcore2": logging.INFO,  # below, HTTP clients write headers, keys among them
    "httpx2": logging.INFO,
    "numba": logging.WARNING,  # below, a megabyte for each kernel
}
"""The least level of libraries' loggers, whatever is asked for."""


def plain_traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """The traceback without values of variables, which may be secrets or large; cut in the middle if it is long."""
    text = "".join(traceback.format_exception(*exc_info, limit=-MOST_FRAMES)).rstrip()
    if len(text) <= LONGEST_TRACEBACK:
        return text
    return f"{text[:LONGEST_HEAD]}\n…\n{text[LONGEST_HEAD - LONGEST_TRACEBACK :]}"


def configure_logs(settings: Settings) -> None:
    """Send this program's and its libraries' events to standard error in the chosen format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.logs.format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    before: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.ExceptionRenderer(plain_traceback),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*before, last]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.logs.level.upper())
    for name, least in _CAREFUL.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
