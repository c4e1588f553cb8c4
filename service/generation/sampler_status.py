"""The body of ``GET /samplers``: whether each sampler can be used now, and what a user wants to know about it."""

from __future__ import annotations

from typing import Any

from qshower.sampler.errors import SamplerUnavailableError
from qshower.sampler.protocol import StoredSampler
from qshower.service.background.recalibration import Recalibration
from qshower.service.generation.key_quota import Accounts
from qshower.service.generation.selection import Selection
from qshower.service.latent_cache.latent_caches import LatentCaches
from qshower.service.sampler_table import SAMPLERS
from qshower.service.schemas import SamplerState
from qshower.service.service_errors import ModelBrokenError


class SamplerStatus:
    """The state of the samplers of a selection.

    Args:
        selection: the samplers and the models.
        cache: latents that are ready before they are asked for, None for none.
        quotas: QPU time of the API keys, None where there are none.
        recalibration: the QPU's calibrations in the background, None for none.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        cache: LatentCaches | None = None,
        quotas: Accounts | None = None,
        recalibration: Recalibration | None = None,
    ) -> None:
        self._selection = selection
        self._cache, self._quotas, self._recalibration = cache, quotas, recalibration

    def of(self, name: str, account: str = "") -> SamplerState:
        """Whether the sampler can be used now with the default model, or with one that fits it. May block.

        ``account`` is the name of the API key that asks.
        """
        try:
            sampler = self._selection.sampler(name)
        except SamplerUnavailableError as error:
            reproducible = SAMPLERS[name].capabilities.reproducible
            return SamplerState(
                name=name, available=False, reason=str(error), reproducible=reproducible, options=[], detail={}
            )
        capabilities = sampler.capabilities
        try:
            bundle = self._selection.default_model(sampler)
        except ModelBrokenError as error:
            return SamplerState(
                name=name,
                available=False,
                reason=str(error),
                reproducible=capabilities.reproducible,
                options=sorted(capabilities.options),
                detail={},
            )
        state = sampler.availability(bundle.machine)
        on_solver = "solver" in capabilities.options
        for other in self._selection.catalogue.defaults() if on_solver and not state.available else ():
            elsewhere = sampler.availability(other.machine)
            if elsewhere.available:
                bundle, state = other, elsewhere
                break
        detail = dict(state.detail)
        if on_solver or isinstance(sampler, StoredSampler):
            detail["model"] = bundle.name
        if capabilities.billed:
            if account and self._quotas is not None:
                detail["key"] = self._quotas.state(account)
            if self._recalibration is not None:
                detail["recalibration"] = self._recalibration.status()
        if cached := self._cached(name):
            detail["latent_cache"] = cached
        return SamplerState(
            name=name,
            available=state.available,
            reason=state.reason,
            reproducible=capabilities.reproducible,
            options=sorted(capabilities.options),
            detail=detail,
        )

    def _cached(self, name: str) -> dict[str, dict[str, Any]]:
        """The latent caches of a sampler, by model."""
        states = () if self._cache is None else self._cache.status()
        return {model: dict(status) for sampler, model, status in states if sampler == name}
