"""A small client of the service; it imports none of the other packages."""

from qshower.client.client_errors import (
    BadAnswerError,
    BusyError,
    ClientConfigurationError,
    ConnectionFailedError,
    DeadlineError,
    InvalidArgumentError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    ShowerServiceError,
    UnauthorisedError,
    UnavailableError,
)
from qshower.client.shower_client import Estimate, ShowerClient, Showers

__all__ = [
    "BadAnswerError",
    "BusyError",
    "ClientConfigurationError",
    "ConnectionFailedError",
    "DeadlineError",
    "Estimate",
    "InvalidArgumentError",
    "InvalidRequestError",
    "NotFoundError",
    "RefusedError",
    "ShowerClient",
    "ShowerServiceError",
    "Showers",
    "UnauthorisedError",
    "UnavailableError",
]
