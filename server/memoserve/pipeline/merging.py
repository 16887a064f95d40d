"""Several asynchronous streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
ROOM = 64


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: Exception | None


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Items of all streams as they come; the first error ends all. Closing closes them all."""
    outbox: asyncio.Queue[_Item[T] | _End] = asyncio.Queue(ROOM)
    tasks = [asyncio.create_task(_pump(stream, outbox)) for stream in streams]
    running = len(tasks)
    try:
        while running:
            item = await outbox.get()
            if isinstance(item, _Item):
                yield item.value
                continue
            running -= 1
            if item.error is not None:
                raise item.error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(stream: AsyncGenerator[T, None], outbox: asyncio.Queue[_Item[T] | _End]) -> None:
    error: Exception | None = None
    try:
        async with aclosing(stream) as items:
            async for item in items:
                await outbox.put(_Item(item))
    except Exception as caught:
        error = caught
    await outbox.put(_End(error))
