"""What a server listens on and how much it lets in."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from memoserve.errors import InvalidArgument


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of TLS. With ``client_ca`` clients must show a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class RpcOptions:
    """How the server is reached; InvalidArgument names a wrong option.

    ``port`` 0 lets the system choose. An address other than this machine's loopback is refused
    unless ``tls`` is given or ``insecure`` says that the network is trusted. ``max_calls`` bounds
    the calls in flight; health and reflection do not count. Times in seconds.
    """

    host: str = "127.0.0.1"
    port: int = 0
    insecure: bool = False
    tls: TlsFiles | None = None
    max_calls: int = 256
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    health_period_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidArgument("port", f"must be 0 to 65535, not {self.port}")
        if self.max_calls < 1:
            raise InvalidArgument("max_calls", f"must be at least 1, not {self.max_calls}")
        for name in ("keepalive_s", "keepalive_timeout_s", "health_period_s"):
            if not 0.001 <= getattr(self, name) <= 86400:
                raise InvalidArgument(name, "must be 0.001 to 86400 seconds")
        if not (is_loopback(self.host) or self.tls or self.insecure):
            raise InvalidArgument(
                "host",
                f"{self.host!r} can be reached from other machines: give TLS files, or allow "
                "insecure connections on purpose",
                reason="INSECURE_ADDRESS",
            )

    @property
    def address(self) -> str:
        """``host:port`` as gRPC wants it, an IPv6 host in brackets."""
        return join_address(self.host, self.port)


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine can reach; other names are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
