"""From an order for showers to the showers: which sampler, which model, what options, and what to say about it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qshower.sampler.bank import ReplaySampler
from qshower.sampler.errors import BankExhaustedError, InvalidInputError, SamplerUnavailableError
from qshower.sampler.protocol import Availability, Sampler
from qshower.sampler.registry import SamplerRegistry
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.service.background.recalibration import Recalibration
from qshower.service.catalogue import FAMILIES, Catalogue
from qshower.service.engine.batches import DrawKey, Drawn, Draws
from qshower.service.engine.engine import Engine
from qshower.service.generation.answer_provenance import Origin
from qshower.service.generation.availability import (
    asked,
    availability_of,
    first_on_qpu,
    qpu_availability,
    qpu_of,
    require,
)
from qshower.service.generation.key_quota import Accounts
from qshower.service.generation.shower_request import Answer, Order
from qshower.service.latent_cache.cached_reads import estimated
from qshower.service.latent_cache.latent_caches import LatentCaches
from qshower.service.schemas import Estimate, SamplerState
from qshower.service.service_errors import DeadlineError, TooLargeError
from qshower.service.settings import PREFIX
from qshower.service.version import program_version

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.claim import Claim

AUTO_ORDER = ("qpu", "gibbs", "annealing")
HOW_TO_CONFIGURE = {
    "qpu": "no QPU is configured: set DWAVE_API_TOKEN (and DWAVE_API_ENDPOINT), or QSHOWER_QPU=on",
    "replay": "no bank is configured: set QSHOWER_BANK to a file made by `qshower bank draw`",
}


@dataclass(frozen=True, slots=True)
class _Failure:
    name: str
    error: SamplerUnavailableError | BankExhaustedError


class Generator:
    """Answers orders with the samplers of a registry and the bundles of a catalogue, through an engine."""

    def __init__(
        self,
        catalogue: Catalogue,
        registry: SamplerRegistry,
        engine: Engine,
        *,
        default_deadline_s: float | None = None,
        max_response_bytes: int | None = None,
        caches: LatentCaches | None = None,
        accounts: Accounts | None = None,
        recalibration: Recalibration | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.registry = registry
        self.engine = engine
        self._default_deadline_s = default_deadline_s
        self._max_response_bytes = max_response_bytes
        self._caches = caches
        self._accounts = accounts
        self._recalibration = recalibration

    def unbounded(self) -> Generator:
        """The same without a deadline or a bound on answers, for a program that draws for itself."""
        return Generator(self.catalogue, self.registry, self.engine)

    def candidates(self, sampler: str, fallback: Sequence[str]) -> tuple[str, ...]:
        """The samplers to try, in order."""
        names = [sampler, *fallback]
        if sampler == "auto":
            names = [name for name in AUTO_ORDER if name in self.registry.names()] + list(fallback)
        return tuple(dict.fromkeys(names))

    def check_sampler(self, name: str) -> Sampler:
        """The sampler of that name; SamplerUnavailableError if it is one that is not configured here."""
        if name not in self.registry.names() and name in HOW_TO_CONFIGURE:
            raise SamplerUnavailableError(HOW_TO_CONFIGURE[name])
        return self.registry.get(name)

    def state_of(self, name: str, account: str = "") -> SamplerState:
        """Whether the sampler can be used now with the default model, or with one that fits it. May block.

        ``account`` is the name of the API key that asks.
        """
        try:
            sampler = self.check_sampler(name)
        except SamplerUnavailableError as error:
            return SamplerState(
                name=name, available=False, reason=str(error), reproducible=name != "qpu", options=[], detail={}
            )
        bundle = self._default_for(sampler)
        state = sampler.availability(bundle.machine)
        for other in self.catalogue.defaults():
            if name != "qpu" or state.available:
                break
            elsewhere = sampler.availability(other.machine)
            bundle, state = (other, elsewhere) if elsewhere.available else (bundle, state)
        further: dict[str, Any] = {"model": bundle.name} if name in ("qpu", "replay") else {}
        caches = [] if self._caches is None else self._caches.status()
        cached = {model: dict(status) for owner, model, status in caches if owner == name}
        if name == "qpu" and account and self._accounts is not None:
            further["key"] = self._accounts.state(account)
        if name == "qpu" and self._recalibration is not None:
            further["recalibration"] = self._recalibration.status()
        if cached:
            further["latent_cache"] = cached
        return SamplerState(
            name=name,
            available=state.available,
            reason=state.reason,
            reproducible=sampler.capabilities.reproducible,
            options=sorted(sampler.capabilities.options),
            detail={**state.detail, **further},
        )

    async def generate(self, order: Order) -> Answer:
        """Draw what is asked for. Cancel the task to give it up.

        Raises:
            InvalidInputError: an energy outside the model's domain, an option no chosen sampler has, and the like.
            SamplerError, ServiceError: as their names say.
        """
        begun = time.monotonic()
        limit = self._default_deadline_s if order.deadline_s is None else order.deadline_s
        try:
            async with asyncio.timeout(limit) as timer:
                return await self._tried_in_order(order, begun, None if limit is None else begun + limit)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineError(f"not done within {limit:g} s") from None

    async def estimate(self, order: Order) -> Estimate:
        """What ``order`` would take on a QPU. Nothing is submitted, nothing is billed.

        Raises:
            InvalidInputError: as ``generate``, and if the sampler that is asked for is not a QPU.
            SamplerError, ServiceError: as their names say.
        """
        limit = self._default_deadline_s if order.deadline_s is None else order.deadline_s
        try:
            async with asyncio.timeout(limit) as timer:
                return await self._estimate(order, limit)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineError(f"not estimated within {limit:g} s") from None

    async def _estimate(self, order: Order, limit_s: float | None) -> Estimate:
        name = self.candidates(order.sampler, ())[0]
        if name != "qpu":
            raise InvalidInputError("dry_run", value=True, allowed=f"false for {name}, which bills nothing; or qpu")
        sampler = self.check_sampler(name)
        self._check_options(order, (name,))
        bundle, availability = await self._bundle(sampler, order)
        self._check_order(bundle, order)
        options, _ = self._options(sampler, bundle, order, [])
        require(name, availability)
        streams = np.zeros((order.energies_mev.shape[0], 2), dtype=np.uint64)
        conditions = bundle.conditions(order.energies_mev)
        request = LatentRequest(bundle.machine, conditions, streams, options, limit_s)
        reads = self._caches.reads(bundle.name) if self._caches is not None and order.takes_cached else None
        try:
            return await asked(estimated, qpu_of(sampler), bundle.name, request, reads)
        except InvalidInputError as error:
            raise _wrong_setting(error, name, order) or error from None

    async def _tried_in_order(self, order: Order, begun: float, deadline_at: float | None) -> Answer:
        names = self.candidates(order.sampler, order.fallback)
        self._check_options(order, names)
        named = self.catalogue.get(order.model)
        if not set(names) & set(self.registry.names()):
            # Nothing can be drawn; a wrong request is told so all the same.
            self._check_order(named, order)
        failures: list[_Failure] = []
        for name in names:
            try:
                return await self._with_sampler(name, order, failures, begun, deadline_at)
            except (SamplerUnavailableError, BankExhaustedError) as error:
                failures.append(_Failure(name, error))
            except InvalidInputError as error:
                wrong = _wrong_setting(error, name, order)
                if wrong is None:
                    raise
                failures.append(_Failure(name, wrong))
        raise self._all_failed(failures)

    async def _with_sampler(
        self, name: str, order: Order, failures: list[_Failure], begun: float, deadline_at: float | None
    ) -> Answer:
        sampler = self.check_sampler(name)
        if name == "qpu" and (found := await self._cached_whole(name, order)) is not None:
            bundle, claim = found
            drawn = await self._drawn(self._cached_key(name, bundle, order), bundle, sampler, order, deadline_at, claim)
            return self._answer(bundle, order, drawn, failures, begun, ())
        # The values are checked before the sampler's state, so that a wrong request is told so whatever is down.
        # (The domain of energies may depend on which model the solver's topology calls for.)
        bundle, availability = await self._bundle(sampler, order)
        self._check_order(bundle, order)
        options, notes = self._options(sampler, bundle, order, failures)
        if isinstance(sampler, ReplaySampler) and sampler.drawn_from(bundle.machine):
            # What it has run out of it says itself, and better.
            claim = sampler.claim(bundle.conditions(order.energies_mev))
            drawn = await self._drawn(self._cached_key(name, bundle, order), bundle, sampler, order, deadline_at, claim)
            return self._answer(bundle, order, drawn, failures, begun, notes)
        require(name, availability)
        some = None
        if self._caches is not None and order.takes_cached:
            some = await asked(self._caches.claim, name, bundle.name, bundle.conditions(order.energies_mev))
        draws: Draws = sampler
        account = order.account if name == "qpu" and self._accounts is not None else ""
        if account and self._accounts is not None:
            draws = self._accounts.billed(sampler, account)
        key = DrawKey(bundle.name, name, options, order.threshold_of(bundle), account)
        if some is not None and some.complete:
            key = self._cached_key(name, bundle, order)
        drawn = await self._drawn(key, bundle, draws, order, deadline_at, some)
        return self._answer(bundle, order, drawn, failures, begun, notes)

    def _cached_key(self, name: str, bundle: Bundle, order: Order) -> DrawKey:
        """Of an order whose latents are all there."""
        return DrawKey(bundle.name, name, SamplerOptions(), order.threshold_of(bundle), cached=True)

    async def _cached_whole(self, name: str, order: Order) -> tuple[Bundle, Claim] | None:
        """The model and the cached latents that answer ``order`` in whole, whatever the solver does; None if none do.

        The model is the one that is named, or the first default model that has them.
        """
        if self._caches is None or not order.takes_cached:
            return None
        for bundle in [self.catalogue.get(order.model)] if order.model is not None else self.catalogue.defaults():
            if order.outside(bundle).size:
                continue
            self._check_order(bundle, order)
            conditions = bundle.conditions(order.energies_mev)
            claim = await asked(self._caches.claim, name, bundle.name, conditions, whole=True)
            if claim is not None:
                return bundle, claim
        return None

    def _answer(
        self,
        bundle: Bundle,
        order: Order,
        drawn: Drawn,
        failures: list[_Failure],
        begun: float,
        notes: tuple[str, ...],
    ) -> Answer:
        origin = Origin(
            bundle.name,
            bundle.sha256,
            program_version(),
            order.seed,
            order.threshold_of(bundle),
            failures[0].name if failures else None,
            "; ".join(f"{failure.name}: {failure.error}" for failure in failures) or None,
            notes,
        )
        elapsed = {**drawn.elapsed_s, "total": time.monotonic() - begun}
        return Answer(order.energies_mev, drawn.showers_mev, bundle.geometry, origin, drawn.parts, elapsed)

    async def _drawn(
        self,
        key: DrawKey,
        bundle: Bundle,
        sampler: Draws,
        order: Order,
        deadline_at: float | None,
        claim: Claim | None,
    ) -> Drawn:
        """The showers of ``order``; what ``claim`` holds goes back if they are shown to nobody."""
        rows = order.energies_mev.shape[0]
        streams = np.empty((rows, 2), dtype=np.uint64)
        streams[:, 0] = secrets.randbits(64) if order.seed is None else order.seed
        streams[:, 1] = np.arange(order.first_row, order.first_row + rows, dtype=np.uint64)
        try:
            ticket = self.engine.submit(key, bundle, sampler, order.energies_mev, streams, deadline_at, claim)
            try:
                return await ticket.future
            finally:
                self.engine.cancel(ticket)
        except BaseException:
            if claim is not None:
                claim.give_back()
            raise

    async def _bundle(self, sampler: Sampler, order: Order) -> tuple[Bundle, Availability]:
        """The bundle to use and whether the sampler can draw from it.

        By name, or the default one; for a bank the one it was drawn from, on a QPU the default one for a topology that
        the solver has.
        """
        bundle = self._default_for(sampler) if order.model is None else self.catalogue.get(order.model)
        if sampler.name != "qpu":
            return bundle, await availability_of(sampler, bundle)
        solver = order.options.get("solver")
        defaults = self.catalogue.defaults((solver,) if solver in FAMILIES else FAMILIES)
        wanted = defaults if order.model is None else [bundle]
        misfit = solver in FAMILIES and bundle.machine.topology_family != solver
        if not wanted or (order.model is not None and misfit):
            raise self._unfit(bundle, defaults)
        chosen, state = await asked(first_on_qpu, sampler, wanted, solver)
        if state.available:
            return chosen, state
        if order.model is not None and not order.fallback:
            for other in defaults:
                if other.machine.topology_family != bundle.machine.topology_family:
                    fits = await asked(qpu_availability, sampler, other, solver)
                    if fits.available:
                        raise self._unfit(bundle, [other])
        return chosen, state

    def _default_for(self, sampler: Sampler) -> Bundle:
        """The bundle of an order that names none: the default, unless a bank was drawn from one other alone."""
        default = self.catalogue.get(None)
        if not isinstance(sampler, ReplaySampler) or sampler.drawn_from(default.machine):
            return default
        fitting = [bundle for bundle in self.catalogue.bundles() if sampler.drawn_from(bundle.machine)]
        return fitting[0] if len(fitting) == 1 else default

    def _unfit(self, bundle: Bundle, fitting: Sequence[Bundle]) -> InvalidInputError:
        families = {other.machine.topology_family for other in fitting}
        names = [other.name for family in sorted(families) for other in self.catalogue.fitting(family)]
        known = ", ".join(names) or "none of the loaded models does"
        return InvalidInputError("model", bundle.name, f"a model that fits the solver's topology: {known}")

    def _check_order(self, bundle: Bundle, order: Order) -> None:
        low, high = bundle.domain_mev
        outside = order.outside(bundle)
        if outside.size:
            index = int(outside[0])
            raise InvalidInputError(
                f"incident_energies_mev[{(order.first_row + index) // order.showers_per_energy}]",
                float(order.energies_mev[index]),
                f"{low:.10g} to {high:.10g} MeV, the domain of model {bundle.name}",
            )
        size = int(order.energies_mev.shape[0] * bundle.geometry.voxel_count * order.bytes_per_voxel)
        if self._max_response_bytes is not None and size > self._max_response_bytes:
            raise TooLargeError(
                f"the answer would take about {size} bytes, more than {self._max_response_bytes}; ask for fewer showers"
            )

    def _check_options(self, order: Order, names: tuple[str, ...]) -> None:
        """Refuse options that none of the samplers to try has."""
        known = [self.registry.get(name).capabilities.options for name in names if name in self.registry.names()]
        if len(known) < len(names):
            # One that is not configured may well have the option; the samplers that are tried decide.
            return
        for option, value in order.options.items():
            if known and not any(option in options for options in known):
                raise InvalidInputError(_option_field(option), value, _allowed_options(names[0], known[0]))

    def _options(
        self, sampler: Sampler, bundle: Bundle, order: Order, failures: list[_Failure]
    ) -> tuple[SamplerOptions, tuple[str, ...]]:
        """What of the options is for this sampler; what is for another one of the order's samplers is left out."""
        known = sampler.capabilities.options
        others: set[str] = set()
        for name in (*order.fallback, *(failure.name for failure in failures)):
            if name in self.registry.names():
                others |= self.registry.get(name).capabilities.options
        taken, notes = {}, []
        for option, value in order.options.items():
            if option in known:
                taken[option] = value
            elif option in others or (failures and failures[0].name not in self.registry.names()):
                notes.append(f"{_option_field(option)} left out: {sampler.name} does not have it")
            else:
                raise InvalidInputError(_option_field(option), value, _allowed_options(sampler.name, known))
        if sampler.name == "gibbs" and "sweeps" not in taken:
            taken["sweeps"] = bundle.default_sweeps
            if not bundle.sweeps_measured:
                notes.append(_assumed(bundle))
        return SamplerOptions(**taken), tuple(notes)

    def _all_failed(self, failures: list[_Failure]) -> Exception:
        if not failures:
            return SamplerUnavailableError("no sampler is configured")
        if len(failures) == 1:
            return failures[0].error
        waits = [getattr(failure.error, "retry_after_s", None) for failure in failures]
        known = [wait for wait in waits if wait is not None]
        message = "; ".join(f"{failure.name}: {failure.error}" for failure in failures)
        if not known and any(isinstance(failure.error, BankExhaustedError) for failure in failures):
            # Nothing more comes of the bank, and of none of the others is it known when.
            return BankExhaustedError(message)
        return SamplerUnavailableError(message, retry_after_s=min(known) if known else None)


def _assumed(bundle: Bundle) -> str:
    why = "the last calibration failed" if bundle.manifest.sweeps_measurement else "the model was not calibrated"
    return (
        f"{bundle.default_sweeps} sweeps were assumed, not measured: {why} "
        f"(qshower calibrate --sampler gibbs --model {bundle.name})"
    )


def _wrong_setting(error: InvalidInputError, sampler: str, order: Order) -> SamplerUnavailableError | None:
    """What to tell of an option that is refused and that ``order`` does not have: it is a setting of the service."""
    option = error.field.removeprefix("options.")
    if option == error.field or option in order.options:
        return None
    variable = f"{PREFIX}{sampler}_{option}".upper()
    return SamplerUnavailableError(f"{variable}: {error.value!r} is not allowed; allowed: {error.allowed}")


def _option_field(option: str) -> str:
    return option if option == "solver" else f"options.{option}"


def _allowed_options(sampler: str, known: frozenset[str]) -> str:
    return f"options of {sampler}: {', '.join(sorted(known)) or 'none'}"
