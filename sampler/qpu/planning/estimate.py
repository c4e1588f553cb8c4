"""What work on a QPU would take, known without submitting anything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QpuEstimate:
    """What a request would take, known without submitting anything.

    Attributes:
        solver: where it would run.
        graph_id: that solver's working graph.
        access_time_us: QPU access time, calibration included.
        calibration_us: the part of it that a first calibration takes, 0 if there is one.
        problems: number of problems, without those of a calibration.
        reads: reads over all of them.
        conditions: distinct conditions.
        copies: conditions side by side on the chip.
        missing_qubits: free nodes without a qubit, in the worst copy used.
    """

    solver: str
    graph_id: str
    access_time_us: float
    calibration_us: float
    problems: int
    reads: int
    conditions: int
    copies: int
    missing_qubits: int
