"""Counts the calls in flight: bounds them, and tells when the last one has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from memoserve.errors import ResourceExhausted, Unavailable

RETRY_AFTER_S = 1.0


class Gate:
    """Lets at most ``max_calls`` in at once, and none once it is closed."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._open_calls = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def open_calls(self) -> int:
        """Calls in flight."""
        return self._open_calls

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold one place; Unavailable when closed, ResourceExhausted when full."""
        if self._closed:
            raise Unavailable("the server is draining", reason="DRAINING")
        if self._open_calls >= self._max_calls:
            raise ResourceExhausted(
                f"{self._open_calls} calls are in flight, as many as this server takes",
                reason="TOO_MANY_CALLS",
                retry_after_s=RETRY_AFTER_S,
                max_calls=self._max_calls,
            )
        self._open_calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open_calls -= 1
            if not self._open_calls:
                self._idle.set()

    def close(self) -> None:
        """Let no further call in."""
        self._closed = True

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no call is in flight; False when that takes longer than ``timeout_s``."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        return self._idle.is_set()
