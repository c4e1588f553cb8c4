"""The samplers of one process, by the name a request chooses them by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from qshower.sampler.closing import Closing
from qshower.sampler.errors import InvalidInputError
from qshower.sampler.protocol import Sampler


class SamplerRegistry(Closing):
    """Owns samplers: built once, closed with the registry.

    Choosing among them (``auto``, fallbacks) is left to the caller, who has to say in the provenance what it chose.
    """

    def __init__(self, samplers: Iterable[Sampler]) -> None:
        self._samplers: dict[str, Sampler] = {}
        for sampler in samplers:
            if sampler.name in self._samplers:
                raise InvalidInputError("samplers", sampler.name, "samplers of different names")
            self._samplers[sampler.name] = sampler

    def get(self, name: str) -> Sampler:
        """The sampler of that name; InvalidInputError if there is none."""
        sampler = self._samplers.get(name)
        if sampler is None:
            raise InvalidInputError("sampler", name, ", ".join(self.names()) or "nothing: no sampler is configured")
        return sampler

    def names(self) -> tuple[str, ...]:
        """Names, in the order the samplers were given."""
        return tuple(self._samplers)

    def __contains__(self, name: object) -> bool:
        """Whether there is a sampler of that name."""
        return name in self._samplers

    def __iter__(self) -> Iterator[Sampler]:
        """The samplers, in the order they were given."""
        return iter(self._samplers.values())

    def close(self) -> None:
        """Close every sampler, the others also where one fails to; the first failure is raised. Idempotent."""
        with ExitStack() as stack:
            for sampler in self._samplers.values():
                stack.callback(sampler.close)
