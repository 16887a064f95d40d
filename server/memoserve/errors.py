"""Every error a caller can meet; each names the gRPC status it becomes.

    MemoserveError
    ├── InvalidArgument      a request value is wrong; names the field
    ├── NotFound             no such memory, version or model
    ├── AlreadyExists        the name is taken
    ├── FailedPrecondition   the memory is not in a state that allows this
    ├── OutOfRange           a text beyond the model's capacity
    ├── ResourceExhausted    pages or quota do not suffice, with the numbers
    ├── Aborted              another writer holds the memory, or the version moved
    ├── Cancelled            the caller went away
    ├── DeadlineExceeded     the caller's deadline passed
    ├── DataLoss             a stored file is damaged or missing
    ├── Unimplemented        part of the contract that is not built yet
    └── Unavailable          the engine is down or draining

No gRPC import here: only ``rpc`` turns ``status`` into a status code. An exception
outside this tree is a bug and reaches the caller as INTERNAL, without its text.
"""

from __future__ import annotations

from typing import ClassVar


class MemoserveError(Exception):
    """Base of all errors that are told to callers.

    ``status`` is the name of the gRPC status code, ``reason`` a stable UPPER_SNAKE word for
    programs (google.rpc.ErrorInfo), ``metadata`` numbers and names that explain the message.
    """

    status: ClassVar[str] = "UNKNOWN"
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, *, reason: str | None = None, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(MemoserveError):
    """A request value is wrong. ``field`` is its path in the request message, snake_case."""

    status = "INVALID_ARGUMENT"
    default_reason = "INVALID_FIELD"

    def __init__(
        self, field: str, message: str, *, reason: str | None = None, **metadata: object
    ) -> None:
        super().__init__(f"{field}: {message}", reason=reason, **metadata)
        self.field = field
        self.description = message


class _AboutResource(MemoserveError):
    def __init__(
        self,
        resource_type: str,
        resource_name: str,
        message: str = "",
        *,
        reason: str | None = None,
        **metadata: object,
    ) -> None:
        text = message or f"{resource_type} {resource_name!r}: {self.default_text}"
        super().__init__(text, reason=reason, **metadata)
        self.resource_type = resource_type
        self.resource_name = resource_name

    default_text: ClassVar[str] = ""


class NotFound(_AboutResource):
    """The named memory, version, model or generator does not exist."""

    status = "NOT_FOUND"
    default_reason = "RESOURCE_NOT_FOUND"
    default_text = "not found"


class AlreadyExists(_AboutResource):
    """The name is taken."""

    status = "ALREADY_EXISTS"
    default_reason = "RESOURCE_EXISTS"
    default_text = "already exists"


class FailedPrecondition(MemoserveError):
    """The memory is not in a state that allows the call. ``subject`` names it."""

    status = "FAILED_PRECONDITION"
    default_reason = "PRECONDITION_FAILED"

    def __init__(
        self, subject: str, message: str, *, reason: str | None = None, **metadata: object
    ) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.subject = subject


class OutOfRange(MemoserveError):
    """The text is longer than the model can hold at this ratio."""

    status = "OUT_OF_RANGE"
    default_reason = "BEYOND_CAPACITY"


class ResourceExhausted(MemoserveError):
    """Pages or quota do not suffice. ``retry_after_s`` is None where waiting cannot help."""

    status = "RESOURCE_EXHAUSTED"
    default_reason = "OUT_OF_PAGES"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        reason: str | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.retry_after_s = retry_after_s


class Aborted(MemoserveError):
    """Another writer holds the memory, or its version is not the expected one."""

    status = "ABORTED"
    default_reason = "CONFLICT"


class Cancelled(MemoserveError):
    """The caller cancelled or vanished."""

    status = "CANCELLED"
    default_reason = "CANCELLED"


class DeadlineExceeded(MemoserveError):
    """The caller's deadline passed."""

    status = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE"


class DataLoss(MemoserveError):
    """A stored file is damaged, truncated or missing."""

    status = "DATA_LOSS"
    default_reason = "DAMAGED_FILE"


class Unimplemented(MemoserveError):
    """Part of the contract that is not built yet."""

    status = "UNIMPLEMENTED"
    default_reason = "NOT_BUILT"


class Unavailable(MemoserveError):
    """The engine is down, still loading, or draining."""

    status = "UNAVAILABLE"
    default_reason = "ENGINE_DOWN"
