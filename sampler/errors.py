"""Every error this project raises on purpose.

::

    QShowerError
    ├── InvalidInputError            a value is not allowed (names field, value and what is allowed)
    │   └── DefectError              a file or an array is missing or faulty (names it, the fault and what is expected)
    │       ├── BundleError          a bundle on disk is missing, altered or unreadable
    │       └── ShowerFileError      a shower file is truncated, mis-shaped or holds bad values
    └── SamplerError                 a draw failed
        ├── SamplerUnavailableError  the sampler cannot be used now; may say when to try again
        │   ├── SolverConfigurationError          Ocean's configuration on this machine cannot be used
        │   ├── SolverAuthenticationFailedError   token missing or refused
        │   ├── SolverNotFoundHereError           no such solver, or it is offline
        │   ├── PlacementError                    the machine does not fit the solver's working graph
        │   └── CircuitOpenError                  too many failures in a row; waiting before the next probe
        ├── SamplerTimeoutError      no answer before the deadline
        ├── SamplerCancelledError    nobody waited for the answer any more
        ├── SamplerAnswerError       an answer came, and it is not a valid draw
        │   └── ConditionNotHeldError             flux biases did not hold the condition
        ├── NotEquilibratedError     no number of sweeps tried is known to reach the law
        ├── ProblemRangeError        (h, J)/beta_eff leaves the solver's ranges
        ├── BudgetExceededError      the QPU access time asked for is more than what is left
        └── BankExhaustedError       the bank holds no further latents for a condition
"""

from __future__ import annotations


class QShowerError(Exception):
    """Root of the error tree."""


class InvalidInputError(QShowerError, ValueError):
    """A value that is not allowed.

    ``field`` is the name of the offending field, flag or file, ``value`` what was given, ``allowed`` what may be given.
    ``message`` says it in a sentence of its own where the usual one would not be English.

    >>> str(InvalidInputError("sweeps", 0, "an integer of at least 1"))
    'sweeps: 0 is not allowed; allowed: an integer of at least 1'
    """

    def __init__(self, field: str, value: object, allowed: str, *, message: str | None = None) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        self.message = message
        super().__init__(self.sentence(repr(value)))

    def sentence(self, shown: str) -> str:
        """What is wrong, with the value as ``shown``."""
        return self.message or f"{self.field}: {shown} is not allowed; allowed: {self.allowed}"


class DefectError(InvalidInputError):
    """Something given is missing or faulty; ``value`` says what is wrong with it, ``allowed`` what is expected.

    >>> str(DefectError("out.hdf5", "no such file", "an HDF5 file of showers"))
    'out.hdf5: no such file; expected: an HDF5 file of showers'
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(field, value, allowed, message=f"{field}: {value}; expected: {allowed}")


class BundleError(DefectError):
    """A bundle on disk is missing, altered or unreadable."""


class ShowerFileError(DefectError):
    """A shower file is truncated, mis-shaped or holds values that no shower has."""


class SamplerError(QShowerError):
    """A draw failed. ``problem_ids`` names the QPU problems involved, if there were any."""

    def __init__(self, message: str, *, problem_ids: tuple[str, ...] = ()) -> None:
        self.problem_ids = problem_ids
        super().__init__(message)


class SamplerUnavailableError(SamplerError):
    """The sampler cannot be used now. ``retry_after_s`` is when to try again, None if waiting does not help."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, problem_ids: tuple[str, ...] = ()) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, problem_ids=problem_ids)


class SolverConfigurationError(SamplerUnavailableError):
    """The solver API's configuration on this machine cannot be used: names the variable or file. No outage."""


class SolverAuthenticationFailedError(SamplerUnavailableError):
    """The solver API's token is missing or was refused. Never retried."""


class SolverNotFoundHereError(SamplerUnavailableError):
    """No solver of that name or kind is online at the configured endpoint."""


class PlacementError(SamplerUnavailableError):
    """The machine's lattice does not fit the solver's working graph.

    ``qubits`` and ``couplers`` are all that its best placement lacks; the message names the first of them.
    """

    def __init__(
        self, message: str, *, qubits: tuple[int, ...] = (), couplers: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.qubits, self.couplers = qubits, couplers
        super().__init__(message)


class CircuitOpenError(SamplerUnavailableError):
    """Too many failures in a row: calls are refused until a probe succeeds."""


class SamplerTimeoutError(SamplerError):
    """No answer came before the deadline."""


class SamplerCancelledError(SamplerError):
    """Nobody waited for the answer any more, so that the draw was stopped."""


class SamplerAnswerError(SamplerError):
    """An answer came, and it is not a valid draw: wrong shape, values, count or energies."""


class ConditionNotHeldError(SamplerAnswerError):
    """Flux biases left more of the condition's spins wrong than the settings allow. Says nothing of other draws."""


class NotEquilibratedError(SamplerError):
    """No number of sweeps that was tried is known to reach the law."""


class ProblemRangeError(SamplerError):
    """(h, J)/beta_eff leaves the solver's ranges."""


class BudgetExceededError(SamplerError):
    """The QPU access time asked for is more than what is left. ``retry_after_s``: when the budget renews."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class BankExhaustedError(SamplerError):
    """The bank holds no further latents for a condition."""
