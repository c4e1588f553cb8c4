import pytest

from qshower.service.http.negotiation import Format, Wanted, negotiate
from qshower.service.service_errors import NotAcceptableError


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.JSON),
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("application/*", Format.JSON),
        ("application/json", Format.JSON),
        ("APPLICATION/X-NPZ", Format.NPZ),
        ("application/x-hdf5, */*;q=0.1", Format.HDF5),
        ("text/html, application/xhtml+xml, */*;q=0.8", Format.JSON),
        ("application/json;q=0.5, application/x-npz;q=0.6", Format.NPZ),
        ("application/json;q=0, */*", Format.HDF5),
        ("application/json;q=0.1, application/*;q=0.9", Format.HDF5),
        ("application/vnd.apache.arrow.stream; q=1.0", Format.ARROW),
        ("application/x-npz;q=2, application/json", Format.JSON),
        ("application/x-npz;q=oops, application/json;q=0.1", Format.JSON),
    ],
)
def test_the_preferred_format(accept: str | None, expected: object) -> None:
    assert negotiate(accept).format is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/vnd.apache.arrow.stream", Wanted(Format.ARROW, "lz4")),
        ("application/vnd.apache.arrow.stream; compression=zstd", Wanted(Format.ARROW, "zstd")),
        ('application/vnd.apache.arrow.stream;compression="none";q=0.5', Wanted(Format.ARROW, "none")),
        ("application/x-hdf5;compression=ZSTD", Wanted(Format.HDF5, "zstd")),
        ("application/x-hdf5;compression=brotli, application/json;q=0.1", Wanted(Format.JSON, "none")),
        ("application/x-hdf5;compression=brotli, application/x-hdf5;q=0.2", Wanted(Format.HDF5, "gzip")),
    ],
)
def test_the_compression_inside_is_a_parameter(accept: str, expected: Wanted) -> None:
    assert negotiate(accept) == expected


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/json;q=0",
        "application/xml, image/*",
        "*/*;q=0",
        "nonsense",
        "application/x-hdf5;compression=brotli",
    ],
)
def test_nothing_that_can_be_made(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="application/x-hdf5"):
        negotiate(accept)
