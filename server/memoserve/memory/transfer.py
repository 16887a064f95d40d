"""States between device and host, in slices, so that steps go on while a large one moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from memoserve.memory.kv_cache import KVCache
from memoserve.memory.memory import HostState, PagedState
from memoserve.memory.page_pool import PagePool
from memoserve.memory.page_table import PageTable
from memoserve_kernels.layout import Upload


class Pending(Protocol):
    """A copy under way."""

    def done(self) -> bool:
        """It is done. Does not block."""
        ...

    def wait(self) -> None:
        """Block the host until it is done."""
        ...


class Copier(Protocol):
    """The part of a device that copies; ``engine.device`` says what may be touched meanwhile."""

    def host_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A host tensor that copies may leave from or arrive in without waiting."""
        ...

    def to_host(self, read: Callable[[], Tensor], target: Tensor) -> Pending:
        """Start to copy what ``read`` gives into ``target``."""
        ...

    def to_device(self, source: Tensor, write: Callable[[Tensor], object]) -> Pending:
        """Start to call ``write`` with a copy of ``source`` on the device."""
        ...


Launch: TypeAlias = Callable[[Copier, Tensor, Tensor], Pending]
"""Starts the copy of one slice, given its slots and its rows on the host."""


class _Part:
    """Rows of one table from ``first`` on, and ``rows`` on the host that belong to them."""

    def __init__(self, table: PageTable, first: int, rows: Tensor, launch: Launch) -> None:
        self.table = table
        self.first = first
        self.rows = rows
        self.launch = launch
        self.moved = 0

    @property
    def left(self) -> int:
        """Rows whose copy has not been started."""
        return int(self.rows.shape[0]) - self.moved


class Transfer:
    """One state on its way. ``paged`` are its pages on the device, held until it is there."""

    def __init__(self, paged: PagedState, parts: list[_Part]) -> None:
        self.paged = paged
        self._parts = deque(part for part in parts if part.left)

    @property
    def launched(self) -> bool:
        """The copies of all rows have been started."""
        return not self._parts

    def launch(self, copier: Copier, upload: Upload, budget: int) -> tuple[Pending, int]:
        """Start the next copy, of at most ``budget`` bytes or one row; with its size in bytes.

        ``upload`` brings its slots to the device. Where that raises nothing has moved, and it may
        be tried again.
        """
        part = self._parts[0]
        row_bytes = part.rows[0].nbytes
        count = min(max(budget // row_bytes, 1), part.left)
        begin = part.moved
        slots = part.table.slots(part.first + begin, part.first + begin + count)
        pending = part.launch(copier, upload(slots), part.rows[begin : begin + count])
        part.moved += count
        if not part.left:
            self._parts.popleft()
        return pending, count * row_bytes


class Leaving(Transfer):
    """A state on its way to host tensors, memory rows from ``first_row`` on.

    ``host`` may be used once every copy is done; until then nothing may write to the pages.
    """

    def __init__(
        self, cache: KVCache, copier: Copier, paged: PagedState, first_row: int = 0
    ) -> None:
        row = (cache.shape.layers, 2, cache.shape.kv_heads, cache.shape.head_dim)
        counts = (paged.memory.length - first_row, paged.window.length)
        memory, window = (copier.host_empty((n, *row), cache.shape.dtype) for n in counts)
        self.host = HostState(paged.schedule, paged.state, first_row, memory, window)
        self._finite: list[Tensor] = []
        parts = [
            _Part(paged.memory, first_row, memory, self._reads(cache.read_memory)),
            _Part(paged.window, 0, window, self._reads(cache.read)),
        ]
        super().__init__(paged, parts)

    def _reads(self, read: Callable[[Tensor], Tensor]) -> Launch:
        def launch(copier: Copier, slots: Tensor, target: Tensor) -> Pending:
            def look() -> Tensor:
                rows = read(slots)
                # On the device, which does it in the time of one more pass over the rows.
                self._finite.append(rows.isfinite().all())
                return rows

            return copier.to_host(look, target)

        return launch

    def all_finite(self) -> bool:
        """Every row was finite. To be asked when every copy is done."""
        return not self._finite or bool(torch.stack(self._finite).all())


class Arriving(Transfer):
    """A state on its way to fresh pages, which nobody may read before every copy is done.

    Raises OutOfPages and takes none.
    """

    def __init__(self, cache: KVCache, pool: PagePool, host: HostState) -> None:
        if host.first_row != 0:
            raise ValueError("a state is restored from its first row on")
        paged = PagedState.fresh(pool, host.schedule)
        paged.state = host.state
        try:
            paged.memory.extend(host.memory_rows.shape[0])
            paged.window.extend(host.window_rows.shape[0])
        except BaseException:
            paged.release()
            raise
        dtype = cache.shape.dtype
        parts = [
            _Part(paged.memory, 0, host.memory_rows, _writes(cache.write_memory, dtype)),
            _Part(paged.window, 0, host.window_rows, _writes(cache.write, dtype)),
        ]
        super().__init__(paged, parts)


def _writes(write: Callable[[Tensor, Tensor], None], dtype: torch.dtype) -> Launch:
    def launch(copier: Copier, slots: Tensor, source: Tensor) -> Pending:
        return copier.to_device(source, lambda rows: write(slots, rows.to(dtype)))

    return launch


class Holder:
    """Who has a state: in pages, on the host, or on its way between the two.

    While it leaves ``paged`` holds it still, while it arrives ``host`` does.
    """

    paged: PagedState | None
    host: HostState | None
    moving: Transfer | None

    @property
    def held(self) -> PagedState | None:
        """Its pages, also while its rows are on their way into them."""
        return self.moving.paged if self.moving is not None else self.paged

    @property
    def leaving(self) -> bool:
        """It is on its way to the host."""
        return isinstance(self.moving, Leaving)

    @property
    def arriving(self) -> bool:
        """It has its pages, its rows are on their way into them."""
        return isinstance(self.moving, Arriving)
