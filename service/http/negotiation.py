"""The format of an answer, from the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from enum import StrEnum

from qshower.service.service_errors import NotAcceptableError


class Format(StrEnum):
    """The media types of showers, the default first."""

    JSON = "application/json"
    HDF5 = "application/x-hdf5"
    ARROW = "application/vnd.apache.arrow.stream"
    NPZ = "application/x-npz"


def negotiate(accept: str | None) -> Format:
    """The format that ``accept`` prefers, the earlier of ``Format`` where it has no preference. NotAcceptableError."""
    if accept is None or not accept.strip():
        return Format.JSON
    ranges = qualities(accept)
    best, best_quality = None, 0.0
    for candidate in Format:
        main = candidate.value.split("/")[0]
        # The most specific range that matches decides on a type, whatever the others say.
        weights = {name: quality for name, quality in ranges if name in (candidate.value, f"{main}/*", "*/*")}
        for name in (candidate.value, f"{main}/*", "*/*"):
            if name in weights:
                if weights[name] > best_quality:
                    best, best_quality = candidate, weights[name]
                break
    if best is None:
        raise NotAcceptableError(f"Accept: {accept[:200]} asks for none of {', '.join(Format)}")
    return best


def qualities(header: str) -> list[tuple[str, float]]:
    """The names of a header such as Accept, in lower case, each with its quality (RFC 9110, section 12.4.2)."""
    return [_parsed(part) for part in header.split(",") if part.strip()]


def _parsed(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return name, quality
