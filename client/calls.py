"""What a client can ask, as the steps of ``qshower.client.exchange``: the same for both kinds of client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from numpy.typing import ArrayLike

from qshower.client.arrow_stream import ARROW, ArrowReader
from qshower.client.client_errors import IncompleteAnswerError
from qshower.client.exchange import Head, Item, Request, Steps, exchange, next_block, read_all
from qshower.client.file_output import replacing
from qshower.client.progress_display import Progress, Shown, shown
from qshower.client.request_body import request_body
from qshower.client.route import Route
from qshower.client.shower_data import document_of, estimate_of, showers_of_npz

JSON = "application/json"
NPZ = "application/x-npz"
HDF5 = "application/x-hdf5"
UNBILLED = frozenset({"gibbs", "annealing", "tempering"})
"""Samplers whose draws cost nothing and use nothing up, so that a lost request may be sent to another service."""


class Choices(TypedDict, total=False):
    """The fields of ``POST /generate`` beside the energies; what is left out or None is the service's choice.

    Scalars of numpy and torch are taken as the numbers that they hold.
    """

    showers_per_energy: int
    sampler: str
    fallback: str | Sequence[str]
    solver: str | None
    model: str | None
    seed: int | None
    options: Mapping[str, Any]
    threshold_mev: float | None
    deadline_s: float | None


def generate(
    energies_mev: ArrayLike, choices: Mapping[str, Any], progress: Progress, timeout_s: float | None, route: Route
) -> Steps[None]:
    """One item: the Showers."""
    body = request_body(energies_mev, choices)
    count = len(body["incident_energies_mev"]) * body.get("showers_per_energy", 1)
    with shown(progress, unit="bytes") as bar:

        def take(head: Head) -> Steps[bytes]:
            blocks: list[bytes] = []
            yield from _received(head, blocks.append, bar)
            return b"".join(blocks)

        content = yield from exchange(_generate_request(NPZ, body, timeout_s), route, take)
    yield Item(showers_of_npz(content, count))


def batches(
    energies_mev: ArrayLike, choices: Mapping[str, Any], progress: Progress, timeout_s: float | None, route: Route
) -> Steps[None]:
    """An item for each batch of Showers, as they come."""
    body = request_body(energies_mev, choices)
    count = len(body["incident_energies_mev"]) * body.get("showers_per_energy", 1)
    reader = ArrowReader(count)
    with shown(progress, unit="showers") as bar:

        def take(head: Head) -> Steps[None]:
            del head
            done = 0
            while block := (yield from next_block()):
                for batch in reader.feed(block):
                    done += len(batch.showers_mev)
                    bar(done, count)
                    yield Item(batch)
            for batch in reader.finish():
                bar(count, count)
                yield Item(batch)

        # What was handed on cannot be taken back: a lost stream is sent nowhere else.
        yield from exchange(Request("POST", "/generate", ARROW, body, timeout_s=timeout_s), route, take)


def save(
    path: Path, energies_mev: ArrayLike, choices: Mapping[str, Any], progress: Progress, timeout_s: float | None,
    route: Route,
) -> Steps[None]:  # fmt: skip
    """No item; the service's HDF5 file at ``path``."""
    body = request_body(energies_mev, choices)
    with shown(progress, unit="bytes") as bar, replacing(path) as file:

        def take(head: Head) -> Steps[None]:
            file.seek(0)
            file.truncate()
            yield from _received(head, file.write, bar)

        yield from exchange(_generate_request(HDF5, body, timeout_s), route, take)


def estimate(energies_mev: ArrayLike, choices: Mapping[str, Any], timeout_s: float | None, route: Route) -> Steps[None]:
    """One item: the Estimate of a dry run."""
    body = {"sampler": "qpu", **request_body(energies_mev, choices), "dry_run": True}
    request = Request("POST", "/generate", JSON, body, repeatable=True, timeout_s=timeout_s)
    answered = document_of((yield from exchange(request, route, read_all)), "the dry run")
    yield Item(estimate_of(answered.get("estimate")))


def document(path: str, timeout_s: float | None, route: Route) -> Steps[None]:
    """One item: the JSON object at ``path``."""
    request = Request("GET", path, JSON, repeatable=True, timeout_s=timeout_s)
    yield Item(document_of((yield from exchange(request, route, read_all)), path))


def _generate_request(accept: str, body: Mapping[str, Any], timeout_s: float | None) -> Request:
    unbilled = body.get("sampler") in UNBILLED and set(body.get("fallback", ())) <= UNBILLED
    return Request("POST", "/generate", accept, body, repeatable=unbilled, timeout_s=timeout_s)


def _received(head: Head, write: Callable[[bytes], Any], bar: Shown) -> Steps[None]:
    """The body, block by block into ``write``; IncompleteAnswerError if it is shorter than it says."""
    length = head.headers.get("content-length", "")
    total = int(length) if length.isdecimal() and "content-encoding" not in head.headers else None
    seen = 0
    while block := (yield from next_block()):
        write(block)
        seen += len(block)
        bar(seen, total)
    if total is not None and seen != total:
        raise IncompleteAnswerError(f"the answer has {seen} bytes of {total}")
