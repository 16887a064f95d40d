"""Small laws of asyncio: work that is not left half done, deadlines, errors told as one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import ParamSpec, TypeVar

from memoserve.errors import DeadlineExceeded, MemoserveError

P = ParamSpec("P")
T = TypeVar("T")


async def settled(task: asyncio.Task[T]) -> T:
    """A task's result. Whoever is cancelled while waiting leaves only once the task has ended."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at, or asyncio complains that nobody did
        raise cancelled
    return task.result()


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work beside the loop, to its end also where the caller is cancelled."""
    return await settled(asyncio.create_task(asyncio.to_thread(work, *args, **kwargs)))


async def until(stream: AsyncGenerator[T, None], deadline: float | None) -> AsyncGenerator[T, None]:
    """Items of a stream; DeadlineExceeded once ``time.monotonic`` passes the deadline."""
    loop_deadline = None
    if deadline is not None:
        loop_deadline = asyncio.get_running_loop().time() + deadline - time.monotonic()
    async with aclosing(stream):
        while True:
            limit = asyncio.timeout_at(loop_deadline)
            try:
                async with limit:
                    item = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not limit.expired():
                    raise
                raise DeadlineExceeded("the deadline passed") from None
            yield item


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the first error of a group by itself, one that is told to callers before a bug."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        raise next((e for e in errors if isinstance(e, MemoserveError)), errors[0]) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
