"""What the service refuses, beside the errors of the samplers and models it calls.

::

    QShowerError
    ├── InvalidInputError
    │   └── SettingsError            an environment variable or flag is not allowed
    └── ServiceError                 a request that is refused whatever its values
        ├── MalformedError           the body is not of the form that it has to be       400
        ├── UnauthorisedError        no API key, or an unknown one                       401
        ├── UnknownModelError        no bundle of that name, or none of that version     404
        ├── NotAcceptableError       none of the media types of Accept can be made       406
        ├── TooLargeError            the body or the projected answer is too large       413
        ├── UnsupportedEncodingError the body is compressed in a way that is not known       415
        ├── MisdirectedError         the Host is none of the allowed ones                421
        ├── QueueFullError           too much is waiting; says when to try again         429
        ├── RateError                the caller's key has drawn too much; when again     429
        ├── ModelBrokenError         the bundle's files are altered or unreadable        503
        ├── NotReadyError            starting, draining or stopped                       503
        ├── StorageError             no room on the disk, or it cannot be written to     507
        ├── UnknownJobError          no job of that id, or another key's                 404
        ├── JobNotDoneError          a job's result was asked for too early              409
        └── DeadlineError            not done before the deadline                        504
"""

from __future__ import annotations

from qshower.sampler.errors import InvalidInputError, QShowerError


class SettingsError(InvalidInputError):
    """A setting that is not allowed; ``field`` is its environment variable."""


class ServiceError(QShowerError):
    """Root of the refusals of the service."""


class MalformedError(ServiceError):
    """The body is not a JSON object, does not say that it is, or is not of the form that its protocol has."""


class UnauthorisedError(ServiceError):
    """No API key was sent, or one that is not known."""


class UnknownModelError(ServiceError):
    """There is no bundle of that name, or none of that version."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        self.known = known
        super().__init__(f"no model is named {name!r}; there are: {', '.join(known)}")


class ModelBrokenError(ServiceError):
    """There is a bundle of that name, and its files are not whole. ``error`` says what is wrong with them."""

    def __init__(self, name: str, error: str) -> None:
        self.name = name
        self.error = error
        super().__init__(f"model {name} cannot be used: {error}")


class NotAcceptableError(ServiceError):
    """No media type of the Accept header can be produced."""


class TooLargeError(ServiceError):
    """The request's body or its projected answer is larger than allowed."""


class UnsupportedEncodingError(ServiceError):
    """The request's Content-Encoding is not one that the service undoes."""


class MisdirectedError(ServiceError):
    """The request's Host is none of those that the service is known by."""


class QueueFullError(ServiceError):
    """Too much work is waiting. ``retry_after_s``: when the queue should have room again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class RateError(ServiceError):
    """The caller's key has drawn what it may for now. ``retry_after_s``: when it may draw again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class NotReadyError(ServiceError):
    """The service is starting, draining or stopped."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class UnknownJobError(ServiceError):
    """There is no job of that id: it was cancelled, has expired, or is another key's."""


class JobNotDoneError(ServiceError):
    """The result of a job was asked for that has none, or not yet."""


class StorageError(ServiceError):
    """What has to be written to disk first cannot be."""


class DeadlineError(ServiceError):
    """The showers were not done before the request's deadline."""
