"""``memoserve serve``: run until a signal, then drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from prometheus_client import start_http_server

from memoserve.cli.assemble import Assembled, assemble
from memoserve.cli.ready import READY
from memoserve.config import ServerConfig
from memoserve.rpc.options import RpcOptions, TlsFiles
from memoserve.rpc.server import build_server


def serve(config: ServerConfig) -> int:
    """Serve until SIGTERM or SIGINT; prints ``READY`` and the address when calls are answered."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    options = _options(config)
    assembled = assemble(config)
    try:
        asyncio.run(_run(assembled, options, config))
    finally:
        assembled.close()
    return 0


def _options(config: ServerConfig) -> RpcOptions:
    tls = None
    if config.tls_cert is not None and config.tls_key is not None:
        tls = TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca)
    return RpcOptions(host=config.host, port=config.port, insecure=config.insecure, tls=tls)


async def _run(assembled: Assembled, options: RpcOptions, config: ServerConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = build_server(assembled.pipeline, options, assembled.metrics)
    await server.start()
    if config.metrics_port is not None:
        endpoint, _ = start_http_server(
            config.metrics_port, config.metrics_host, assembled.metrics.registry
        )
        print(f"metrics on http://{config.metrics_host}:{endpoint.server_port}/metrics", flush=True)
    print(f"{READY}{server.address}", flush=True)
    await stop.wait()
    await server.stop(config.drain_s)
