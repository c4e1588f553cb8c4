"""The format of an answer, from the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qshower.service.service_errors import NotAcceptableError


class Format(StrEnum):
    """The media types of showers, the default first."""

    JSON = "application/json"
    HDF5 = "application/x-hdf5"
    ARROW = "application/vnd.apache.arrow.stream"
    NPZ = "application/x-npz"


COMPRESSIONS: dict[Format, tuple[str, ...]] = {
    Format.JSON: ("none",),
    Format.HDF5: ("gzip", "zstd"),
    Format.ARROW: ("lz4", "zstd", "none"),
    Format.NPZ: ("none",),
}
"""What the parameter ``compression`` of each may be, the default first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A format, and how it is compressed inside."""

    format: Format
    compression: str


def negotiate(accept: str | None) -> Wanted:
    """What ``accept`` prefers, the earlier of ``Format`` where it has no preference. NotAcceptableError."""
    if accept is None or not accept.strip():
        return Wanted(Format.JSON, "none")
    ranges = [_parsed(part) for part in accept.split(",") if part.strip()]
    best, best_quality = None, 0.0
    for candidate in Format:
        main = candidate.value.split("/")[0]
        # The most specific range that matches decides on a type, whatever the others say.
        for name in (candidate.value, f"{main}/*", "*/*"):
            matching = [(quality, compression) for known, quality, compression in ranges if known == name]
            if matching:
                usual = COMPRESSIONS[candidate]
                choices = [(quality, how or usual[0]) for quality, how in matching if how is None or how in usual]
                if choices and (found := max(choices, key=lambda one: one[0]))[0] > best_quality:
                    best, best_quality = Wanted(candidate, found[1]), found[0]
                break
    if best is None:
        raise NotAcceptableError(f"Accept: {accept[:200]} asks for none of {', '.join(map(_described, Format))}")
    return best


def _described(one: Format) -> str:
    known = COMPRESSIONS[one]
    return one.value if len(known) == 1 else f"{one.value} (compression={'|'.join(known)})"


def qualities(header: str) -> list[tuple[str, float]]:
    """The names of a header such as Accept, in lower case, each with its quality (RFC 9110, section 12.4.2)."""
    return [(name, quality) for name, quality, _ in map(_parsed, filter(str.strip, header.split(",")))]


def _parsed(part: str) -> tuple[str, float, str | None]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality, compression = 1.0, None
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
        elif key.strip() == "compression":
            compression = value.strip().strip('"')
    return name, quality, compression
