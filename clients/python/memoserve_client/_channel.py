"""Where to connect and how: credentials, message sizes, keepalive, retries."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

MAX_RECEIVE_BYTES = 16 * 1024 * 1024
MAX_SEND_BYTES = 4 * 1024 * 1024
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
FIRST_RECONNECT_MS = 200
LAST_RECONNECT_MS = 5_000

ChannelOption = tuple[str, int | str]

# Unary calls that change nothing may be sent again when nobody answered.
RETRIED = {
    "memoserve.v1.MemoryService": ("GetMemory", "ListMemories"),
    "memoserve.v1.ServerService": ("GetServerInfo",),
}


@dataclass(frozen=True)
class Endpoint:
    """A server's address; ``credentials`` None is plaintext."""

    target: str
    credentials: grpc.ChannelCredentials | None
    options: tuple[ChannelOption, ...]


def endpoint(
    target: str,
    *,
    root_certificates: bytes | None = None,
    insecure: bool = False,
    channel_options: Sequence[ChannelOption] = (),
) -> Endpoint:
    """Plaintext to this machine, TLS to any other unless ``insecure``.

    ``root_certificates`` (PEM) asks for TLS everywhere; without it the system's roots are taken.
    Options given here go before the defaults. Raises ValueError for both certificates and
    ``insecure``.
    """
    if insecure and root_certificates is not None:
        raise ValueError("root_certificates and insecure exclude each other")
    plaintext = root_certificates is None and (insecure or is_loopback(target))
    credentials = None if plaintext else grpc.ssl_channel_credentials(root_certificates)
    options = {**dict(default_options()), **dict(channel_options)}
    return Endpoint(target, credentials, tuple(options.items()))


def is_loopback(target: str) -> bool:
    """Whether a gRPC target stays on this machine, as far as its text tells."""
    scheme, colon, rest = target.partition(":")
    if colon and scheme in ("unix", "unix-abstract"):
        return True
    if colon and scheme in ("dns", "ipv4", "ipv6"):
        return all(_is_loopback_host(one) for one in rest.rpartition("/")[2].split(","))
    return _is_loopback_host(target)


def _is_loopback_host(address: str) -> bool:
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    elif address.count(":") > 1:
        host = address
    else:
        host = address.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def default_options() -> list[ChannelOption]:
    """Channel options unless the caller says otherwise."""
    return [
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.max_send_message_length", MAX_SEND_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", LAST_RECONNECT_MS),
        ("grpc.service_config", json.dumps(service_config())),
    ]


def service_config() -> dict[str, object]:
    """gRPC's own retries for the methods in RETRIED."""
    names = [
        {"service": service, "method": method}
        for service, methods in RETRIED.items()
        for method in methods
    ]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        # CANCELLED is what gRPC tells calls that meet a server's shutdown. A caller's own cancel
        # ends the retries too.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    return {"methodConfig": [{"name": names, "retryPolicy": policy}]}
