"""One inference, whichever way it came: the protocol's words made into the request that ``POST /generate`` makes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from qshower.model.field_errors import field_errors
from qshower.sampler.errors import DefectError, InvalidInputError
from qshower.service.generation.request_of_body import request_of_body
from qshower.service.generation.shower_request import ShowerAnswer
from qshower.service.http.problem_json import outcome_of
from qshower.service.kserve.named_tensors import ENERGIES, SEED, SHOWERS
from qshower.service.running import Service
from qshower.service.schemas import GenerateOptions, GenerateRequest
from qshower.service.service_errors import NotReadyError, TooLargeError

FIELDS = ("sampler", "solver", "seed", "threshold_mev", "deadline_s")
OPTIONS = tuple(GenerateOptions.model_fields)
MICROSECONDS = 1e-6
TENSORS = "inputs"


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """What a call asks for.

    Attributes:
        model, version: as in the protocol; no version is the highest.
        id: what the answer repeats.
        inputs: (n,) values by name.
        outputs: names of the outputs that are wanted; all if there are none.
        parameters: of the request: those of ``POST /generate`` and of its ``options`` in one, ``fallback`` with commas,
            and the protocol's ``timeout`` in µs.
        limit_s: how long the caller waits, where the transport says so.
    """

    model: str
    version: str
    id: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    limit_s: float | None = None

    def body(self) -> GenerateRequest:
        """The body that ``POST /generate`` would have; InvalidInputError naming what is wrong."""
        for name in self.outputs:
            if name != SHOWERS:
                raise InvalidInputError("outputs", name, SHOWERS)
        if ENERGIES not in self.inputs:
            raise InvalidInputError(TENSORS, sorted(self.inputs), f"{ENERGIES} among them")
        values: dict[str, Any] = {
            "incident_energies_mev": self.inputs[ENERGIES].tolist(),
            "model": f"{self.model}@{self.version}" if self.version else self.model,
            "options": {},
        }
        for name, value in self.parameters.items():
            if name in OPTIONS:
                values["options"][name] = value
            elif name in FIELDS:
                values[name] = value
            elif name == "fallback":
                values[name] = [part.strip() for part in str(value).split(",") if part.strip()]
            elif name == "timeout":
                values["deadline_s"] = self._timeout_s(value)
            else:
                known = ", ".join((*FIELDS, "fallback", "timeout", *OPTIONS))
                raise InvalidInputError(f"parameters.{name}", value, known)
        if (seed := self._seed()) is not None:
            if "seed" in values:
                raise InvalidInputError("parameters.seed", values["seed"], f"left out where {SEED} is an input")
            values["seed"] = seed
        if self.limit_s is not None:
            values["deadline_s"] = min(self.limit_s, values.get("deadline_s") or self.limit_s)
        try:
            return GenerateRequest.model_validate(values)
        except ValidationError as error:
            fault = field_errors(error.errors(include_url=False), GenerateRequest)[0]
            raise InvalidInputError(fault.path, fault.value, fault.allowed) from None

    def _timeout_s(self, value: Any) -> float:
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise InvalidInputError("parameters.timeout", value, "an integer > 0, in µs")
        return value * MICROSECONDS

    def _seed(self) -> int | None:
        """The seed of the input of that name: one for all rows, and below 0 none."""
        given = self.inputs.get(SEED)
        if given is None:
            return None
        if len(given) not in (1, len(self.inputs[ENERGIES])):
            raise DefectError(f"inputs[{SEED}]", f"{len(given)} values", "1, or one for each energy")
        if (given != given[0]).any():
            raise InvalidInputError(f"inputs[{SEED}]", given.tolist()[:4], "one value, the same in each row")
        return int(given[0]) if given[0] >= 0 else None


async def infer(
    service: Service, call: Inference, account: str, *, bytes_per_voxel: float = 4.0, most_bytes: int | None = None
) -> ShowerAnswer:
    """The showers of ``call``, on behalf of the API key ``account``. Cancel the task to give it up.

    ``bytes_per_voxel`` is what a voxel takes in the answer, ``most_bytes`` what the answer may have.

    Raises:
        InvalidInputError, ServiceError, SamplerError: as ``Generator.generate``.
    """
    with counted(service):
        if not service.ready:
            raise NotReadyError("the service is starting", retry_after_s=service.settings.times.retry_after_s)
        wish = request_of_body(call.body(), service.settings.limits, bytes_per_voxel, account)
        voxels = service.generator.selection.catalogue.get(wish.model).geometry.voxel_count
        if most_bytes is not None and wish.rows * voxels * bytes_per_voxel > most_bytes:
            raise TooLargeError(f"the answer would take more than {most_bytes} bytes; ask for fewer showers")
        answer = await service.generator.generate(wish)
        if answer.origin.fallback_from is not None:
            service.metrics.fallbacks.labels(answer.parts[0].provenance.sampler).inc()
        return answer


def provenance_text(answer: ShowerAnswer) -> str:
    """The provenance of an answer, as the parameter that carries it."""
    return orjson.dumps(answer.provenance()).decode()


@contextmanager
def counted(service: Service) -> Iterator[None]:
    """The block answers a request for showers: background work waits, and how it ends is counted."""
    outcome = "error"
    try:
        with service.idle.answering():
            yield
        outcome = "ok"
    except asyncio.CancelledError:
        outcome = "client_gone"
        if not service.engine.draining:
            raise
        outcome = "not-ready"
        raise NotReadyError("the service has shut down", retry_after_s=service.settings.times.retry_after_s) from None
    except Exception as error:
        outcome = outcome_of(error)
        raise
    finally:
        service.metrics.outcomes.labels(outcome).inc()
