"""Domain errors as google.rpc.Status with details; an unknown exception gives nothing away."""

from __future__ import annotations

import logging
import uuid

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from memoserve.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MemoserveError,
    NotFound,
    ResourceExhausted,
)

DOMAIN = "memoserve"
DETAILS_KEY = "grpc-status-details-bin"  # the name that gRPC gives to google.rpc.Status

# Peers drop calls whose trailers pass 8 KiB, and non-ASCII grows threefold on the wire.
MAX_TEXT_BYTES = 512
MAX_METADATA_BYTES = 128
MAX_METADATA = 8

logger = logging.getLogger(__name__)


def to_status(error: MemoserveError) -> status_pb2.Status:
    """Return the status of a domain error, with every detail that its class knows."""
    return _status(grpc.StatusCode[error.status], error.message, _details(error))


def internal_status(method: str, error: BaseException) -> status_pb2.Status:
    """Log a bug under a fresh id and return INTERNAL, which names that id and nothing else."""
    error_id = uuid.uuid4().hex
    logger.error("%s failed, error id %s", method, error_id, exc_info=error)
    info = details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"error_id": error_id})
    return _status(
        grpc.StatusCode.INTERNAL, f"internal error; the server's log has it as {error_id}", [info]
    )


def to_code(status: status_pb2.Status) -> grpc.StatusCode:
    """Return the gRPC code of a status."""
    return next(code for code in grpc.StatusCode if code.value[0] == status.code)


def _status(code: grpc.StatusCode, text: str, details: list[Message]) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=_clip(text))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _details(error: MemoserveError) -> list[Message]:
    info = details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in list(error.metadata.items())[:MAX_METADATA]:
        info.metadata[key] = _clip(value, MAX_METADATA_BYTES)
    details: list[Message] = [info]
    if isinstance(error, InvalidArgument):
        details.append(_bad_request(error))
    elif isinstance(error, NotFound | AlreadyExists):
        details.append(
            details_pb2.ResourceInfo(
                resource_type=_clip(error.resource_type),
                resource_name=_clip(error.resource_name),
                description=_clip(error.message),
            )
        )
    elif isinstance(error, FailedPrecondition):
        violation = details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=_clip(error.subject), description=_clip(error.message)
        )
        details.append(details_pb2.PreconditionFailure(violations=[violation]))
    elif isinstance(error, ResourceExhausted):
        details.extend(_quota(error))
    return details


def _bad_request(error: InvalidArgument) -> details_pb2.BadRequest:
    violation = details_pb2.BadRequest.FieldViolation(
        field=_clip(error.field), description=_clip(error.description), reason=error.reason
    )
    return details_pb2.BadRequest(field_violations=[violation])


def _quota(error: ResourceExhausted) -> list[Message]:
    violation = details_pb2.QuotaFailure.Violation(
        subject=error.reason, description=_clip(error.message)
    )
    details: list[Message] = [details_pb2.QuotaFailure(violations=[violation])]
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(details_pb2.RetryInfo(retry_delay=delay))
    return details


def _clip(text: str, most: int = MAX_TEXT_BYTES) -> str:
    """Return ``text`` cut to ``most`` bytes of UTF-8; lone surrogates become question marks."""
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= most else raw[: most - 3].decode("utf-8", "ignore") + "..."
