"""The gRPC server: services, interceptor, health, reflection and channelz on one address."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc
from grpc_channelz.v1 import channelz

from memoserve.errors import FailedPrecondition, InvalidArgument
from memoserve.metrics import Metrics
from memoserve.pipeline.api import MAX_MESSAGE_BYTES, Pipeline
from memoserve.rpc import reflection
from memoserve.rpc.gate import Gate
from memoserve.rpc.health import SERVICE_NAME as HEALTH
from memoserve.rpc.health import HealthWatcher
from memoserve.rpc.interceptors import CallInterceptor
from memoserve.rpc.memory_service import MemoryService
from memoserve.rpc.options import RpcOptions, TlsFiles, join_address
from memoserve.rpc.query_service import QueryService
from memoserve.rpc.server_service import ServerService
from memoserve_proto.v1 import (
    memory_service_pb2,
    memory_service_pb2_grpc,
    query_service_pb2,
    query_service_pb2_grpc,
    server_service_pb2,
    server_service_pb2_grpc,
)

CHANNELZ = "grpc.channelz.v1.Channelz"
SERVICES = tuple(
    service.full_name
    for file in (memory_service_pb2, query_service_pb2, server_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)

# Health watchers and reflection are let in beside the calls that the gate counts.
STANDARD_CALLS = 64
# Clients may ping this often before they are told to calm down.
MIN_CLIENT_PING_MS = 10_000
# A caller whose last call has just ended asks on at once, and gRPC answers CANCELLED to every call
# that arrives between the beginning of its shutdown and the client's hearing of it
# (grpc/grpc#41785). For so long such calls are still told DRAINING.
SETTLE_S = 0.5
# Then what is being refused may end. Open health watches last as long as this.
FLUSH_S = 0.25

logger = logging.getLogger(__name__)


class RpcServer:
    """A bound server. ``port`` is the real one, also where 0 was asked for."""

    def __init__(
        self, server: grpc.aio.Server, gate: Gate, health: HealthWatcher, host: str, port: int
    ) -> None:
        self._server = server
        self._gate = gate
        self._health = health
        self.host = host
        self.port = port

    @property
    def address(self) -> str:
        """``host:port``, as a client takes it."""
        return join_address(self.host, self.port)

    async def start(self) -> None:
        """Answer calls; health tells from the first moment what the pipeline says."""
        await self._health.start()
        await self._server.start()
        logger.info("listening on %s", self.address)

    async def drain(self, grace_s: float) -> bool:
        """Refuse new calls, say NOT_SERVING, and wait for calls in flight.

        Returns False when some are still there after ``grace_s`` seconds.
        """
        self._gate.close()
        await self._health.drain()
        return await self._gate.wait_idle(grace_s)

    async def stop(self, grace_s: float = 0.0) -> None:
        """Drain, then cancel what is left and give the port back.

        Callers whose calls ended meanwhile are told where they stand for ``SETTLE_S`` seconds more.
        """
        busy = self._gate.open_calls > 0
        drained = await self.drain(grace_s)
        if not drained:
            logger.warning("%d calls are cancelled by the stop", self._gate.open_calls)
        elif busy:
            await asyncio.sleep(SETTLE_S)
        await self._health.stop()
        await self._server.stop(FLUSH_S if drained else None)

    async def wait(self) -> None:
        """Return when the server has stopped."""
        await self._server.wait_for_termination()


def build_server(
    pipeline: Pipeline, options: RpcOptions | None = None, metrics: Metrics | None = None
) -> RpcServer:
    """Return a server that is bound and not started; call it inside the running event loop.

    Raises FailedPrecondition when the address cannot be bound, InvalidArgument for TLS files that
    cannot be read or are no PEM.
    """
    options = options or RpcOptions()
    credentials = _credentials(options.tls) if options.tls else None
    gate = Gate(options.max_calls)
    server = grpc.aio.server(
        interceptors=[CallInterceptor(gate, metrics or Metrics())],
        options=_channel_options(options),
        maximum_concurrent_rpcs=options.max_calls + STANDARD_CALLS,
    )
    memory_service_pb2_grpc.add_MemoryServiceServicer_to_server(MemoryService(pipeline), server)
    query_service_pb2_grpc.add_QueryServiceServicer_to_server(QueryService(pipeline), server)
    server_service_pb2_grpc.add_ServerServiceServicer_to_server(ServerService(pipeline), server)
    health = HealthWatcher(pipeline, SERVICES, options.health_period_s)
    health.add_to(server)
    channelz.add_channelz_servicer(server)
    reflection.add_reflection(server, (*SERVICES, HEALTH, CHANNELZ))
    port = _bind(server, options, credentials)
    return RpcServer(server, gate, health, options.host, port)


def _channel_options(options: RpcOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A second server on the same port is an error, not a silent share of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.enable_channelz", 1),
        # Finds clients that vanished without a word.
        ("grpc.keepalive_time_ms", round(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
    ]


def _bind(
    server: grpc.aio.Server, options: RpcOptions, credentials: grpc.ServerCredentials | None
) -> int:
    try:
        if credentials is None:
            port = server.add_insecure_port(options.address)
        else:
            port = server.add_secure_port(options.address, credentials)
    except RuntimeError as error:
        raise FailedPrecondition(
            options.address,
            f"{options.address} cannot be bound: the port is taken, the address is not this "
            "machine's, or the TLS files do not fit together",
            reason="ADDRESS_NOT_BOUND",
        ) from error
    return port


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    client_ca = _read_pem("tls.client_ca", files.client_ca) if files.client_ca else None
    return grpc.ssl_server_credentials(
        [(_read_pem("tls.key", files.key), _read_pem("tls.certificate", files.certificate))],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _read_pem(field: str, path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(field, f"{path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN" not in raw:
        raise InvalidArgument(field, f"{path} is no PEM file")
    return raw
