"""Every error that a call can raise.

    MemoserveError
    ├── InvalidArgument      a request value is wrong; ``violations`` name the fields
    ├── NotFound             no such memory, version or generator
    ├── AlreadyExists        the name is taken
    ├── FailedPrecondition   the memory is not in a state that allows the call
    ├── OutOfRange           a text beyond the model's capacity
    ├── ResourceExhausted    pages or quota do not suffice; ``retry_after_s`` where waiting helps
    ├── Aborted              another writer holds the memory, or version or etag moved
    ├── Cancelled            the call was cancelled
    ├── DeadlineExceeded     the call's timeout passed
    ├── DataLoss             a stored file is damaged or missing
    ├── Unimplemented        this server cannot do that
    ├── Unavailable          nobody answers, or the server loads or drains
    ├── Unauthenticated      no or wrong credentials
    ├── PermissionDenied     these credentials may not do that
    ├── Internal             a bug in the server, or a reply that breaks the contract
    └── Unknown              none of these

What goes wrong while the client reads a caller's own text (a file's OSError, say) is raised as it
is; the call is then cancelled and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar


@dataclass(frozen=True)
class FieldViolation:
    """A wrong value. ``field`` is its path in the request message, as in the contract."""

    field: str
    description: str


@dataclass(frozen=True)
class PreconditionViolation:
    """A state that forbids the call. ``type`` is a stable word, ``subject`` what is in it."""

    type: str
    subject: str
    description: str


@dataclass(frozen=True)
class QuotaViolation:
    """A limit that was reached. ``subject`` says whose."""

    subject: str
    description: str


@dataclass(frozen=True)
class ErrorDetails:
    """What the server says about an error beyond status and message; empty where it says nothing.

    ``reason`` is a stable UPPER_SNAKE_CASE word, unique within ``domain``.
    """

    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    field_violations: tuple[FieldViolation, ...] = ()
    precondition_violations: tuple[PreconditionViolation, ...] = ()
    quota_violations: tuple[QuotaViolation, ...] = ()
    resource_type: str = ""
    resource_name: str = ""
    retry_after_s: float | None = None


class MemoserveError(Exception):
    """Base of all errors of a call. ``status`` is the name of the gRPC status code."""

    status: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or ErrorDetails()

    @property
    def reason(self) -> str:
        """Stable word for programs, empty when the server gave none."""
        return self.details.reason

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which to try again; None where the server does not advise it."""
        return self.details.retry_after_s


class InvalidArgument(MemoserveError):
    """A request value is wrong."""

    status = "INVALID_ARGUMENT"

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """The wrong fields."""
        return self.details.field_violations


class _AboutResource(MemoserveError):
    @property
    def resource_type(self) -> str:
        """What kind of thing it is about: memory, version, generator, ..."""
        return self.details.resource_type

    @property
    def resource_name(self) -> str:
        """Its name."""
        return self.details.resource_name


class NotFound(_AboutResource):
    """The named memory, version or generator does not exist."""

    status = "NOT_FOUND"


class AlreadyExists(_AboutResource):
    """The name is taken."""

    status = "ALREADY_EXISTS"


class FailedPrecondition(MemoserveError):
    """The memory is not in a state that allows the call."""

    status = "FAILED_PRECONDITION"

    @property
    def violations(self) -> tuple[PreconditionViolation, ...]:
        """The states that forbid it."""
        return self.details.precondition_violations


class OutOfRange(MemoserveError):
    """The text is longer than the model holds at this ratio; numbers in ``details.metadata``."""

    status = "OUT_OF_RANGE"


class ResourceExhausted(MemoserveError):
    """Pages or quota do not suffice."""

    status = "RESOURCE_EXHAUSTED"

    @property
    def violations(self) -> tuple[QuotaViolation, ...]:
        """The limits that were reached."""
        return self.details.quota_violations


class Aborted(MemoserveError):
    """Another writer holds the memory, or its version or etag is not the expected one."""

    status = "ABORTED"


class Cancelled(MemoserveError):
    """The call was cancelled, not by this client's own ``close``."""

    status = "CANCELLED"


class DeadlineExceeded(MemoserveError):
    """The call's timeout passed."""

    status = "DEADLINE_EXCEEDED"


class DataLoss(MemoserveError):
    """A stored file is damaged or missing."""

    status = "DATA_LOSS"


class Unimplemented(MemoserveError):
    """The server does not know the call or cannot do it yet."""

    status = "UNIMPLEMENTED"


class Unavailable(MemoserveError):
    """Nobody answers at the target, or the server loads, drains or stopped."""

    status = "UNAVAILABLE"


class Unauthenticated(MemoserveError):
    """No credentials were sent, or wrong ones."""

    status = "UNAUTHENTICATED"


class PermissionDenied(MemoserveError):
    """These credentials may not do that."""

    status = "PERMISSION_DENIED"


class Internal(MemoserveError):
    """A bug in the server, or a reply that breaks the contract."""

    status = "INTERNAL"


class Unknown(MemoserveError):
    """None of the others."""

    status = "UNKNOWN"
