"""From a failed gRPC call to this package's errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2 as rpc
from google.rpc import status_pb2

from memoserve_client import errors

STATUS_DETAILS = "grpc-status-details-bin"
# What gRPC says to calls that still ran when this side closed the channel.
CLOSED_HERE = "Channel closed!"

BY_STATUS: dict[str, type[errors.MemoserveError]] = {
    cls.status: cls
    for cls in (
        errors.InvalidArgument,
        errors.NotFound,
        errors.AlreadyExists,
        errors.FailedPrecondition,
        errors.OutOfRange,
        errors.ResourceExhausted,
        errors.Aborted,
        errors.Cancelled,
        errors.DeadlineExceeded,
        errors.DataLoss,
        errors.Unimplemented,
        errors.Unavailable,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.Internal,
    )
}


def translated(error: grpc.RpcError) -> errors.MemoserveError:
    """The error of this package that tells the same.

    A CANCELLED that neither this side nor the server's code gave is gRPC's word for a call that
    met the server's shutdown (grpc/grpc#41785); nobody cancelled it: it is Unavailable.
    """
    status = error.code().name
    # Pairs of key and value, whichever side of gRPC made them.
    trailing = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    packed = next((value for key, value in trailing if key == STATUS_DETAILS), b"")
    # ``value`` is bytes for every key that ends in "-bin".
    details = unpack(packed if isinstance(packed, bytes) else b"")
    if status == errors.Cancelled.status and not packed and error.details() != CLOSED_HERE:
        return errors.Unavailable("the server stopped before it answered", details)
    return BY_STATUS.get(status, errors.Unknown)(error.details() or status, details)


def unpack(packed: bytes) -> errors.ErrorDetails:
    """Read a serialized google.rpc.Status; parts that cannot be read are passed over."""
    found = errors.ErrorDetails()
    try:
        for packed_detail in status_pb2.Status.FromString(packed).details:
            for message_type, add in READERS.items():
                message = message_type()
                if packed_detail.Unpack(message):
                    found = add(found, message)
    except DecodeError:
        # A damaged detail must not hide the error itself.
        return found
    return found


def _error_info(found: errors.ErrorDetails, info: rpc.ErrorInfo) -> errors.ErrorDetails:
    metadata = MappingProxyType(dict(info.metadata))
    return replace(found, reason=info.reason, domain=info.domain, metadata=metadata)


def _bad_request(found: errors.ErrorDetails, bad: rpc.BadRequest) -> errors.ErrorDetails:
    violations = tuple(
        errors.FieldViolation(item.field, item.description) for item in bad.field_violations
    )
    return replace(found, field_violations=violations)


def _precondition(
    found: errors.ErrorDetails, failure: rpc.PreconditionFailure
) -> errors.ErrorDetails:
    violations = tuple(
        errors.PreconditionViolation(item.type, item.subject, item.description)
        for item in failure.violations
    )
    return replace(found, precondition_violations=violations)


def _quota(found: errors.ErrorDetails, failure: rpc.QuotaFailure) -> errors.ErrorDetails:
    violations = tuple(
        errors.QuotaViolation(item.subject, item.description) for item in failure.violations
    )
    return replace(found, quota_violations=violations)


def _resource(found: errors.ErrorDetails, info: rpc.ResourceInfo) -> errors.ErrorDetails:
    return replace(found, resource_type=info.resource_type, resource_name=info.resource_name)


def _retry(found: errors.ErrorDetails, info: rpc.RetryInfo) -> errors.ErrorDetails:
    delay = info.retry_delay
    return replace(found, retry_after_s=delay.seconds + delay.nanos / 1e9)


READERS = {
    rpc.ErrorInfo: _error_info,
    rpc.BadRequest: _bad_request,
    rpc.PreconditionFailure: _precondition,
    rpc.QuotaFailure: _quota,
    rpc.ResourceInfo: _resource,
    rpc.RetryInfo: _retry,
}
