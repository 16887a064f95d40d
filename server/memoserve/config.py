"""One frozen configuration of a server, checked once, at the door."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from memoserve.errors import InvalidArgument

EMBEDDED_MODEL = Path(__file__).parent / "assets" / "tiny"
DTYPES = ("auto", "float32", "bfloat16")
MEMORY_DTYPES = ("auto", "int8", "fp8")
DEVICE_FEATURES = ("graphs", "pinned_uploads", "async_copies")
DEVICE_NAME = re.compile(r"cpu|cuda(:\d{1,3})?")
NOT_NEGATIVE = (
    "pool_bytes",
    "page_size",
    "num_pages",
    "step_target_s",
    "ratio",
    "threads",
    "drain_s",
)


@dataclass(frozen=True)
class ServerConfig:
    """Everything ``memoserve serve`` takes. Sizes in bytes, times in seconds.

    ``model`` is a directory or a Hub name. ``device`` is cpu, cuda or cuda:N; ``dtype`` "auto" is
    the checkpoint's own on a CPU, bfloat16 on a GPU; ``memory_dtype`` int8 or fp8 keeps compressed
    rows in 8 bits; ``device_features`` switches on what of ``DEVICE_FEATURES`` no GPU has measured
    yet. ``num_pages`` 0 derives the pool from ``pool_bytes``; that and ``page_size`` 0,
    and ``step_target_s`` None, are the device's defaults (``engine.build``). ``metrics_port`` None
    serves no metrics, 0 lets the system choose. ``ratio`` is used where neither request nor
    checkpoint settles one. ``tls_cert`` and ``tls_key`` are PEM files, both or none;
    ``tls_client_ca`` asks clients for a certificate.
    """

    data_dir: Path
    model: str = str(EMBEDDED_MODEL)
    dtype: str = "auto"
    memory_dtype: str = "auto"
    device: str = "cpu"
    device_features: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 50051
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    pool_bytes: int = 0
    page_size: int = 0
    num_pages: int = 0
    step_target_s: float | None = None
    ratio: int = 4
    generator: str = "quote"
    keep_versions: int = 2
    threads: int = 0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidArgument("dtype", f"{self.dtype!r}; known: {', '.join(DTYPES)}")
        if self.memory_dtype not in MEMORY_DTYPES:
            known = ", ".join(MEMORY_DTYPES)
            raise InvalidArgument("memory_dtype", f"{self.memory_dtype!r}; known: {known}")
        if not DEVICE_NAME.fullmatch(self.device):
            raise InvalidArgument("device", f"{self.device!r}; known: cpu, cuda, cuda:N")
        self._check_features()
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument("tls_key", "a certificate and its key are given together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InvalidArgument("tls_client_ca", "needs a certificate of the server's own")
        if self.keep_versions < 1:
            raise InvalidArgument("keep_versions", f"{self.keep_versions} must be at least 1")
        for name in NOT_NEGATIVE:
            if (getattr(self, name) or 0) < 0:
                raise InvalidArgument(name, f"{getattr(self, name)} must not be negative")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise InvalidArgument("metrics_port", f"{self.metrics_port} is not a port")

    def _check_features(self) -> None:
        for name in self.device_features:
            if name not in DEVICE_FEATURES:
                known = ", ".join(DEVICE_FEATURES)
                raise InvalidArgument("device_features", f"{name!r}; known: {known}")
        if self.device_features and self.device == "cpu":
            raise InvalidArgument("device_features", "a CPU has none of them")
