"""Which of a request's options are for which sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qshower.sampler.errors import InvalidInputError, SamplerUnavailableError
from qshower.sampler.protocol import Sampler
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.request import SamplerOptions
from qshower.service.generation.shower_request import ShowerRequest
from qshower.service.settings import PREFIX

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle


def check_options(request: ShowerRequest, names: tuple[str, ...], registry: SamplerRegistry) -> None:
    """Refuse options that none of the samplers to try, ``names``, has."""
    known = [registry.get(name).capabilities.options for name in names if name in registry]
    if len(known) < len(names):
        # One that is not configured may well have the option; the samplers that are tried decide.
        return
    for option, value in request.options.items():
        if known and not any(option in options for options in known):
            raise InvalidInputError(_field(option), value, _allowed(names[0], known[0]))


def options_for(
    sampler: Sampler, bundle: Bundle, request: ShowerRequest, failed: Sequence[str], registry: SamplerRegistry
) -> tuple[SamplerOptions, tuple[str, ...]]:
    """The options for this sampler, and notes; what is for another of the request's samplers is left out.

    ``failed`` are the samplers that were tried before.
    """
    known = sampler.capabilities.options
    others: set[str] = set()
    for name in (*request.fallback, *failed):
        if name in registry:
            others |= registry.get(name).capabilities.options
    taken, notes = {}, []
    for option, value in request.options.items():
        if option in known:
            taken[option] = value
        elif option in others or (failed and failed[0] not in registry):
            notes.append(f"{_field(option)} left out: {sampler.name} does not have it")
        else:
            raise InvalidInputError(_field(option), value, _allowed(sampler.name, known))
    if sampler.capabilities.sweeps_from_model and "sweeps" not in taken:
        taken["sweeps"] = bundle.default_sweeps
        if not bundle.sweeps_measured:
            notes.append(_assumed(sampler.name, bundle))
    return SamplerOptions(**taken), tuple(notes)


def refused_setting(error: InvalidInputError, sampler: str, request: ShowerRequest) -> SamplerUnavailableError | None:
    """An option was refused that ``request`` does not have: then a setting of the service is at fault."""
    option = error.field.removeprefix("options.")
    if option == error.field or option in request.options:
        return None
    variable = f"{PREFIX}{sampler}_{option}".upper()
    return SamplerUnavailableError(f"{variable}: {error.value!r} is not allowed; allowed: {error.allowed}")


def _assumed(sampler: str, bundle: Bundle) -> str:
    why = "the last calibration failed" if bundle.manifest.sweeps_measurement else "the model was not calibrated"
    return (
        f"{bundle.default_sweeps} sweeps were assumed, not measured: {why} "
        f"(qshower calibrate --sampler {sampler} --model {bundle.name})"
    )


def _field(option: str) -> str:
    return option if option == "solver" else f"options.{option}"


def _allowed(sampler: str, known: frozenset[str]) -> str:
    return f"options of {sampler}: {', '.join(sorted(known)) or 'none'}"
