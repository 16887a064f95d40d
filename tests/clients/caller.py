"""One test for both clients: the blocking one runs in a thread."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from memoserve_client import AsyncClient, Client


class Caller:
    """Calls a client's methods by name and collects what they tell."""

    def __init__(self, kind: str, target: str, **options: Any) -> None:
        self.client: Any = (AsyncClient if kind == "async" else Client)(target, **options)
        self.is_async = kind == "async"

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        if self.is_async:
            return await getattr(self.client, method)(*arguments, **options)
        return await asyncio.to_thread(getattr(self.client, method), *arguments, **options)

    async def collect(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        events = getattr(self.client, method)(*arguments, **options)
        if self.is_async:
            return [event async for event in events]
        return await asyncio.to_thread(list, events)

    async def next(self, events: Any) -> Any:
        if self.is_async:
            return await anext(events)
        event = await asyncio.to_thread(next, events, StopIteration)
        if event is StopIteration:
            raise StopAsyncIteration
        return event

    async def close(self, events: Any) -> None:
        if self.is_async:
            await events.aclose()
        else:
            events.close()

    async def drain(self, events: Any) -> None:
        if self.is_async:
            await events.drain()
        else:
            await asyncio.to_thread(events.drain)

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        closed = self.client.aclose() if self.is_async else self.client.close()
        if inspect.isawaitable(closed):
            await closed
