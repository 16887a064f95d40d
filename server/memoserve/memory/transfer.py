"""States between device and host, in slices, so that steps go on while a large one moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from itertools import accumulate
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

    def block_sizes(self, count: int, row_bytes: int) -> list[int]:
        """Rows of each host tensor that ``count`` rows leave the device for."""
        ...

    def host_block(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A host tensor for copies to arrive in."""
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
    """``count`` rows of one table from ``first`` on, and the block on the host that is theirs.

    ``block`` gives it when the first copy of it starts. On the device a row takes ``row_bytes``.
    """

    def __init__(
        self,
        table: PageTable,
        first: int,
        count: int,
        row_bytes: int,
        block: Callable[[], Tensor],
        launch: Launch,
    ) -> None:
        self.table = table
        self.first = first
        self.row_bytes = row_bytes
        self.launch = launch
        self.moved = 0
        self._count = count
        self._block = block

    @cached_property
    def rows(self) -> Tensor:
        """The block, ``[count, layers, 2, kv_heads, head_dim]``."""
        return self._block()

    @property
    def left(self) -> int:
        """Rows whose copy has not been started."""
        return self._count - self.moved


class Transfer:
    """One state on its way. ``paged`` are its pages on the device, held until it is there."""

    def __init__(self, paged: PagedState, parts: list[_Part]) -> None:
        self.paged = paged
        self._parts = deque(part for part in parts if part.left)

    @property
    def launched(self) -> bool:
        """The copies of all rows have been started."""
        return not self._parts

    @property
    def next_row_bytes(self) -> int:
        """Bytes of the next row, on the host or on the device, whichever is wider there.

        A budget bounds what is on the device as well.
        """
        part = self._parts[0]
        return max(part.rows[0].nbytes, part.row_bytes)

    def launch(self, copier: Copier, upload: Upload, budget: int) -> tuple[Pending, int]:
        """Start the next copy, of at most ``budget`` bytes or one row; with its size in bytes.

        ``upload`` brings its slots to the device. Where that raises nothing has moved, and it may
        be tried again.
        """
        part = self._parts[0]
        row_bytes = self.next_row_bytes
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

    Until every copy is done nothing may write to the pages. The host's blocks are made one by one,
    each when it is its turn: locking all of a large memory at once would hold up a step.
    """

    def __init__(
        self, cache: KVCache, copier: Copier, paged: PagedState, first_row: int = 0
    ) -> None:
        self._cache = cache
        self._copier = copier
        self._first_row = first_row
        self._at = (paged.schedule, paged.state)
        self._memory: list[Tensor] = []
        self._window: list[Tensor] = []
        self._finite: list[Tensor] = []
        memory, window = self._reads(cache.read_memory), self._reads(cache.read)
        parts = [
            *self._parts_of(paged.memory, first_row, self._memory, memory),
            *self._parts_of(paged.window, 0, self._window, window),
        ]
        super().__init__(paged, parts)

    @property
    def host(self) -> HostState:
        """The state on the host. To be asked when every copy is done."""
        memory, window = (tuple(made or [self._block(0)]) for made in (self._memory, self._window))
        return HostState(*self._at, self._first_row, memory, window)

    def _parts_of(
        self, table: PageTable, first: int, made: list[Tensor], launch: Launch
    ) -> list[_Part]:
        def block(count: int) -> Tensor:
            made.append(self._block(count))
            return made[-1]

        size = self._cache.shape.row_bytes
        counts = self._copier.block_sizes(table.length - first, size)
        firsts = accumulate(counts, initial=first)
        return [
            _Part(table, begin, count, size, partial(block, count), launch)
            for begin, count in zip(firsts, counts, strict=False)
        ]

    def _block(self, count: int) -> Tensor:
        shape = self._cache.shape
        row = (shape.layers, 2, shape.kv_heads, shape.head_dim)
        return self._copier.host_block((count, *row), shape.dtype)

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
            paged.memory.extend(sum(block.shape[0] for block in host.memory_blocks))
            paged.window.extend(sum(block.shape[0] for block in host.window_blocks))
        except BaseException:
            paged.release()
            raise
        dtype, size = cache.shape.dtype, cache.shape.row_bytes
        memory, window = _writes(cache.write_memory, dtype), _writes(cache.write, dtype)
        parts = [
            *_parts_from(paged.memory, host.memory_blocks, size, memory),
            *_parts_from(paged.window, host.window_blocks, size, window),
        ]
        super().__init__(paged, parts)


def _parts_from(
    table: PageTable, blocks: tuple[Tensor, ...], row_bytes: int, launch: Launch
) -> list[_Part]:
    """A part for each block; a copy never spans two of them."""
    firsts = accumulate((block.shape[0] for block in blocks), initial=0)
    return [
        _Part(table, first, block.shape[0], row_bytes, partial(_same, block), launch)
        for first, block in zip(firsts, blocks, strict=False)
    ]


def _same(block: Tensor) -> Tensor:
    return block


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
