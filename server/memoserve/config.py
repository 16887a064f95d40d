"""One frozen configuration of a server, checked once, at the door."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memoserve.errors import InvalidArgument

EMBEDDED_MODEL = Path(__file__).parent / "assets" / "tiny"
DTYPES = ("auto", "float32", "bfloat16")
DEVICES = ("cpu",)


@dataclass(frozen=True)
class ServerConfig:
    """Everything ``memoserve serve`` takes. Sizes in bytes, times in seconds.

    ``model`` is a directory or a Hub name; ``dtype`` "auto" is the checkpoint's own. ``num_pages``
    0 derives the pool from ``pool_bytes``. ``metrics_port`` None serves no metrics, 0 lets the
    system choose. ``ratio`` is used where neither request nor checkpoint settles one. ``tls_cert``
    and ``tls_key`` are PEM files, both or none; ``tls_client_ca`` asks clients for a certificate.
    """

    data_dir: Path
    model: str = str(EMBEDDED_MODEL)
    dtype: str = "auto"
    device: str = "cpu"
    host: str = "127.0.0.1"
    port: int = 50051
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    pool_bytes: int = 1 << 30
    page_size: int = 16
    num_pages: int = 0
    step_target_s: float = 0.2
    ratio: int = 4
    generator: str = "quote"
    keep_versions: int = 2
    threads: int = 0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidArgument("dtype", f"{self.dtype!r}; known: {', '.join(DTYPES)}")
        if self.device not in DEVICES:
            raise InvalidArgument("device", f"{self.device!r}; known: {', '.join(DEVICES)}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument("tls_key", "a certificate and its key are given together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InvalidArgument("tls_client_ca", "needs a certificate of the server's own")
        for name in ("pool_bytes", "page_size", "keep_versions"):
            if getattr(self, name) < 1:
                raise InvalidArgument(name, f"{getattr(self, name)} must be at least 1")
        for name in ("num_pages", "step_target_s", "ratio", "threads", "drain_s"):
            if getattr(self, name) < 0:
                raise InvalidArgument(name, f"{getattr(self, name)} must not be negative")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise InvalidArgument("metrics_port", f"{self.metrics_port} is not a port")
