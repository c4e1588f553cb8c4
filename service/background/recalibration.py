"""Keeping the QPU's calibrations fresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from qshower.service.background.background_task import BackgroundTask
from qshower.service.catalogue import Catalogue

if TYPE_CHECKING:
    from qshower.model.bundle import Bundle
    from qshower.sampler.qpu.qpu_sampler import QpuSampler

CONDITIONS = 8
"""Incident energies, even in the logarithm, whose conditions a calibration may choose from."""
LONGEST_POLL_S = 60.0
CLOSE_S = 5.0

_log = structlog.get_logger("qshower.service")


def calibration_conditions(bundle: Bundle) -> NDArray[np.int8]:
    """(rows, condition nodes) of energies spread over the model's domain."""
    return bundle.conditions(np.geomspace(*bundle.domain_mev, CONDITIONS))


class Recalibration:
    """Calibrates the QPU when its calibration is older than ``every_s``, drifts, or is not there.

    One at a time; only while the circuit is closed; at the expense of the day's budget, and of no API key. A model
    that was never calibrated is so only if it is the one that requests get that name none. After a failure the
    calibration there was stays in use, and the circuit breaker hears nothing of it.

    Args:
        qpu: what to calibrate.
        catalogue: the models.
        every_s: age at which a calibration is renewed.
        clock: seconds.
    """

    def __init__(
        self, qpu: QpuSampler, catalogue: Catalogue, every_s: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._qpu, self._catalogue, self._every_s = qpu, catalogue, every_s
        poll_s = min(LONGEST_POLL_S, every_s / 10.0)
        self.task = BackgroundTask("recalibration", self._due, self._calibrate, poll_s=poll_s, clock=clock)

    def status(self) -> Mapping[str, Any]:
        """As of any task, and at which age a calibration is renewed."""
        return {"every_s": self._every_s, **self.task.status()}

    def close(self) -> None:
        """Stop, and wait a little for a calibration under way; otherwise it ends with the sampler."""
        self.task.close(CLOSE_S)

    def _calibrate(self, bundle: Bundle) -> None:
        from qshower.sampler.qpu.operations import calibrate  # loads Ocean, which takes seconds

        found = calibrate(self._qpu.access, bundle.machine, calibration_conditions(bundle), counted=False)
        _log.info(
            "calibrated", model=bundle.name, solver=found.solver, beta=round(found.beta, 4), error=found.beta_error
        )

    def _due(self) -> Bundle | None:
        """The first model that needs a calibration, None if there is none or it is not the time."""
        missing = True
        for bundle in self._catalogue.defaults() + self._catalogue.bundles():
            status = self._qpu.monitor.status(bundle.machine)
            if status.circuit.state != "closed":
                return None
            if not status.available:
                continue
            if status.calibration is None:
                if missing:
                    return bundle
                continue
            missing = False
            if status.calibration.due(self._every_s):
                return bundle
        return None
