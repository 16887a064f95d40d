"""Health v1: every service says SERVING exactly while the pipeline is healthy and not draining."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from memoserve.pipeline.api import Pipeline

SERVICE_NAME: str = health.SERVICE_NAME

logger = logging.getLogger(__name__)


class HealthWatcher:
    """Looks at ``pipeline.healthy`` every ``period_s`` seconds and tells the health service."""

    def __init__(self, pipeline: Pipeline, services: Iterable[str], period_s: float) -> None:
        self._pipeline = pipeline
        self._services = ("", *services)
        self._period_s = period_s
        self._servicer = health.aio.HealthServicer()
        self._task: asyncio.Task[None] | None = None
        self._told: bool | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Tell the state as it is now, then go on watching."""
        await self._tell()
        self._task = asyncio.create_task(self._watch(), name="health-watcher")

    async def drain(self) -> None:
        """Say NOT_SERVING from now on, whatever the pipeline says."""
        await self._servicer.enter_graceful_shutdown()

    async def stop(self) -> None:
        """End the watcher."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            await self._tell()

    async def _tell(self) -> None:
        healthy = self._look()
        if healthy == self._told:
            return
        status = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._servicer.set(service, status.SERVING if healthy else status.NOT_SERVING)
        self._told = healthy

    def _look(self) -> bool:
        try:
            return self._pipeline.healthy
        except Exception:
            logger.exception("the pipeline could not tell its health")
            return False
