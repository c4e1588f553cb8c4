"""From a request for showers to the showers: each sampler is tried in turn, and the answer says which one drew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np

from qshower.sampler.errors import BankExhaustedError, InvalidInputError, SamplerUnavailableError
from qshower.sampler.protocol import StoredSampler
from qshower.sampler.request import LatentRequest, SamplerOptions
from qshower.service.engine.engine import Engine
from qshower.service.engine.queued_request import QueuedRequest
from qshower.service.engine.work import DrawKey, Draws, Work
from qshower.service.generation.attempt import Attempt, all_failed, attempting
from qshower.service.generation.availability import in_waiting_thread, require
from qshower.service.generation.key_quota import Accounts
from qshower.service.generation.key_rate import KeyRates
from qshower.service.generation.open_answer import OpenAnswer
from qshower.service.generation.request_options import check_options, options_for, refused_setting
from qshower.service.generation.selection import Selection
from qshower.service.generation.shower_request import ShowerAnswer, ShowerRequest
from qshower.service.latent_cache.cached_reads import estimated
from qshower.service.latent_cache.latent_caches import LatentCaches
from qshower.service.residency import Residency
from qshower.service.sampler_table import SAMPLERS, qpu_of
from qshower.service.schemas import Estimate
from qshower.service.service_errors import ServiceError

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.claim import Claim


class Generator:
    """Answers requests with the samplers and models of a selection, through an engine.

    Args:
        selection: chooses sampler and model.
        engine: draws and decodes.
        default_deadline_s: deadline of a request that sets none; None for none.
        max_response_bytes: projected size above which an answer is refused; None for no bound.
        cache: latents that are ready before they are asked for, None for none.
        quotas: QPU time of the API keys, None where nobody in particular pays.
        residency: the networks in memory, None for no bound on them.
        rates: showers of the API keys, None where none has a limit.
    """

    def __init__(
        self,
        selection: Selection,
        engine: Engine,
        *,
        default_deadline_s: float | None = None,
        max_response_bytes: int | None = None,
        cache: LatentCaches | None = None,
        quotas: Accounts | None = None,
        residency: Residency | None = None,
        rates: KeyRates | None = None,
    ) -> None:
        self.selection = selection
        self._engine = engine
        self._default_deadline_s = default_deadline_s
        self._max_response_bytes = max_response_bytes
        self._cache = cache
        self._quotas = quotas
        self._residency = residency
        self._rates = KeyRates({}) if rates is None else rates

    def unbounded(self) -> Generator:
        """The same without a deadline or a bound on answers, for a program that draws for itself."""
        return Generator(self.selection, self._engine, residency=self._residency)

    async def generate(self, request: ShowerRequest) -> ShowerAnswer:
        """Draw what is asked for. Cancel the task to give it up. Errors as of ``begin``."""
        async with self.answering(request) as answer:
            return await answer.whole()

    @asynccontextmanager
    async def answering(self, request: ShowerRequest) -> AsyncIterator[OpenAnswer]:
        """``begin``, closed at the end."""
        answer = await self.begin(request)
        try:
            yield answer
        finally:
            await answer.close()

    async def begin(self, request: ShowerRequest) -> OpenAnswer:
        """Begin to draw what is asked for; back with the first showers. Close the answer, or cancel the task.

        Raises:
            InvalidInputError: an energy outside the model's domain, an option no chosen sampler has, and the like.
            SamplerError, ServiceError: as their names say.
        """
        async with attempting(request, self._default_deadline_s) as attempt:
            names = self.selection.candidates(request.sampler, request.fallback)
            registry = self.selection.registry
            check_options(request, names, registry)
            named = self.selection.catalogue.get(request.model)
            if not any(name in registry for name in names):
                # Nothing can be drawn; a wrong request is refused all the same.
                request.check(named, self._max_response_bytes)
            for name in names:
                try:
                    return await self._with_sampler(name, attempt)
                except (SamplerUnavailableError, BankExhaustedError) as error:
                    attempt.failures[name] = error
                except InvalidInputError as error:
                    setting = refused_setting(error, name, request)
                    if setting is None:
                        raise
                    attempt.failures[name] = setting
            raise all_failed(attempt.failures)

    async def estimate(self, request: ShowerRequest) -> Estimate:
        """What ``request`` would take on a QPU. Nothing is submitted, nothing is billed.

        Raises:
            InvalidInputError: as ``generate``, and if the sampler that is asked for is not a QPU.
            SamplerError, ServiceError: as their names say.
        """
        async with attempting(request, self._default_deadline_s) as attempt:
            name = self.selection.candidates(request.sampler, ())[0]
            if not self.selection.capabilities(name).billed:
                billed = ", ".join(known for known in SAMPLERS if self.selection.capabilities(known).billed)
                allowed = f"false for {name}, which bills nothing; or {billed}"
                raise InvalidInputError("dry_run", value=True, allowed=allowed)
            sampler = self.selection.sampler(name)
            qpu = qpu_of(self.selection.registry)
            if qpu is None:
                raise SamplerUnavailableError(f"{name} cannot say what a request would take")
            check_options(request, (name,), self.selection.registry)
            bundle, availability = await self.selection.model(sampler, request)
            request.check(bundle, self._max_response_bytes)
            options, _ = options_for(sampler, bundle, request, (), self.selection.registry)
            require(name, availability)
            streams = np.zeros((request.rows, 2), dtype=np.uint64)  # of no consequence: nothing is drawn
            latents = LatentRequest(bundle.machine, await attempt.conditions(bundle), streams, options, attempt.limit_s)
            cached = self._cache.reads(name, bundle) if self._cache is not None and request.takes_cached else None
            try:
                return await in_waiting_thread(estimated, qpu, bundle.name, latents, cached)
            except InvalidInputError as error:
                raise refused_setting(error, name, request) or error from None

    async def _with_sampler(self, name: str, attempt: Attempt) -> OpenAnswer:
        request = attempt.request
        sampler = self.selection.sampler(name)
        if sampler.capabilities.billed and (found := await self._cached_whole(name, attempt)) is not None:
            bundle, claim = found
            return await self._draw(attempt, bundle, self._cached_key(name, bundle, request), sampler, claim=claim)
        # The values are checked before the sampler's state, so that a wrong request is a 422 whatever is down.
        # (The domain of energies may depend on which model the solver's topology calls for.)
        bundle, availability = await self.selection.model(sampler, request)
        request.check(bundle, self._max_response_bytes)
        options, notes = options_for(sampler, bundle, request, tuple(attempt.failures), self.selection.registry)
        if isinstance(sampler, StoredSampler) and sampler.drawn_from(bundle.machine):
            # What it has run out of it says itself, and better.
            claim = sampler.claim(await attempt.conditions(bundle))
            key = self._cached_key(name, bundle, request)
            return await self._draw(attempt, bundle, key, sampler, claim=claim, notes=notes)
        require(name, availability)
        some = None
        if self._cache is not None and request.takes_cached:
            conditions = await attempt.conditions(bundle)
            some = await in_waiting_thread(self._cache.claim, name, bundle, conditions)
        draws: Draws = sampler
        account = request.account if sampler.capabilities.billed and self._quotas is not None else ""
        if account and self._quotas is not None:
            draws = self._quotas.billed(sampler, account)
        key = DrawKey(
            bundle.name,
            name,
            options,
            request.threshold_of(bundle),
            sha256=bundle.sha256,
            account=account,
            elsewhere=sampler.capabilities.billed,
        )
        if some is not None and some.complete:
            key = self._cached_key(name, bundle, request)
        return await self._draw(attempt, bundle, key, draws, claim=some, notes=notes)

    def _submit(self, work: Work, request: ShowerRequest) -> QueuedRequest:
        """``work`` in the engine's queue, counted for the API key that it came with."""
        self._rates.take(request.account, request.rows)
        try:
            return self._engine.submit(work)
        except ServiceError:
            self._rates.give_back(request.account, request.rows)
            raise

    def _cached_key(self, sampler: str, bundle: Bundle, request: ShowerRequest) -> DrawKey:
        """Of a request whose latents are all there."""
        threshold_mev = request.threshold_of(bundle)
        return DrawKey(bundle.name, sampler, SamplerOptions(), threshold_mev, sha256=bundle.sha256, cached=True)

    async def _cached_whole(self, sampler: str, attempt: Attempt) -> tuple[Bundle, Claim] | None:
        """The model and the cached latents that answer a request in whole, whatever the solver does; None if none do.

        The model is the one that is named, or the first default model that has them.
        """
        request, catalogue = attempt.request, self.selection.catalogue
        if self._cache is None or not request.takes_cached:
            return None
        for bundle in [catalogue.get(request.model)] if request.model is not None else catalogue.defaults():
            if self._cache.reads(sampler, bundle) is None or request.outside(bundle).size:
                continue
            request.check(bundle, self._max_response_bytes)
            conditions = await attempt.conditions(bundle)
            claim = await in_waiting_thread(self._cache.claim, sampler, bundle, conditions, whole=True)
            if claim is not None:
                return bundle, claim
        return None

    async def _draw(
        self,
        attempt: Attempt,
        bundle: Bundle,
        key: DrawKey,
        sampler: Draws,
        *,
        claim: Claim | None = None,
        notes: tuple[str, ...] = (),
    ) -> OpenAnswer:
        """The showers of a request; what ``claim`` holds goes back if they are shown to nobody."""
        request, answer, holds = attempt.request, None, AsyncExitStack()
        try:
            work = Work(
                key,
                bundle,
                sampler,
                request.energies_mev,
                await attempt.conditions(bundle),
                attempt.streams(),
                attempt.deadline_at,
                attempt.patience_s,
                claim,
                request.window_bytes,
                request.deadline_s,
            )
            if self._residency is not None:
                await holds.enter_async_context(self._residency.using(bundle))
            queued = self._submit(work, request)
            origin = attempt.origin(bundle, key.threshold_mev, notes)
            answer = OpenAnswer(request, bundle.geometry, origin, self._engine, queued, attempt.begun, claim, holds)
            with attempt.in_engine():
                await answer.wait()
        except BaseException:
            if answer is not None:
                await answer.close()
            else:
                await holds.aclose()
                if claim is not None:
                    claim.give_back()
            raise
        return answer
