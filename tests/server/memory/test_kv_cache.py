"""Pages as tensors: rows in and out, tail copies, sizes."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch

from memoserve.engine.device import make_device
from memoserve.memory.kv_cache import KVCache, KVShape
from memoserve.memory.memory import HostState, PagedState, worst_case_pages
from memoserve.memory.page_pool import OutOfPages, PagePool
from memoserve.memory.page_table import PageCopy
from memoserve.memory.transfer import Arriving, Leaving, Transfer
from memoserve.memory.window import RatioSchedule, WindowRules, WindowState, advance, open_rows

SHAPE = KVShape(layers=3, kv_heads=2, head_dim=4, dtype=torch.float32)
ROW_BYTES = SHAPE.row_bytes
DEVICE = make_device("cpu")
T = TypeVar("T", bound=Transfer)


def cache(num_pages: int = 5, page_size: int = 3) -> KVCache:
    return KVCache(SHAPE, num_pages, page_size, torch.device("cpu"))


def rows(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 2, 2, 4, generator=generator)


def test_a_row_costs_what_the_formula_says() -> None:
    assert SHAPE.row_bytes == 2 * 3 * 2 * 4 * 4
    # Qwen2-7B in bfloat16: 28 layers, 4 kv heads of 128.
    assert KVShape(28, 4, 128, torch.bfloat16).row_bytes == 57_344


def test_what_is_written_is_read() -> None:
    kv = cache()
    slots = torch.tensor([14, 0, 7, 4])
    kv.write(slots, rows(4))
    assert torch.equal(kv.read(slots), rows(4))
    assert torch.equal(kv.read(slots.flip(0)), rows(4).flip(0))
    # Head-major inside a page: page 2, offset 1 is slot 7.
    assert torch.equal(kv.layer(1)[0, 2, :, 1], rows(4)[2, 1, 0])
    kv.data.zero_()
    assert not kv.read(slots).any()


def test_reading_copies() -> None:
    kv = cache()
    taken = kv.read(torch.tensor([1, 2]))
    kv.write(torch.tensor([1, 2]), rows(2))
    assert not taken.any()


def test_a_tail_copy_moves_the_used_slots_of_all_layers() -> None:
    kv = cache()
    kv.write(torch.arange(6), rows(6))
    kv.copy_pages([PageCopy(source=1, target=4, rows=2)])
    assert torch.equal(kv.read(torch.tensor([12, 13])), rows(6)[3:5])
    assert not kv.read(torch.tensor([14])).any()
    assert torch.equal(kv.read(torch.arange(6)), rows(6))


RULES, SCHEDULE = WindowRules(8), RatioSchedule((4,))


def state_in_pages(kv: KVCache, pool: PagePool, tokens: int) -> PagedState:
    paged = PagedState.fresh(pool, SCHEDULE)
    paged.state = advance(RULES, SCHEDULE, WindowState(), tokens)
    paged.memory.extend(paged.state.memory_rows)
    paged.window.extend(open_rows(RULES, SCHEDULE, paged.state))
    for seed, table in enumerate(paged.tables):
        slots = torch.from_numpy(table.slots(0, table.length))
        kv.write(slots, rows(table.length, seed))
    return paged


def moved(transfer: T, budget: int) -> T:
    """All of it, in slices of at most ``budget`` bytes or one row."""
    while not transfer.launched:
        pending, size = transfer.launch(DEVICE, torch.from_numpy, budget)
        assert pending.done() and 0 < size <= max(budget, ROW_BYTES)
    return transfer


def to_host(kv: KVCache, paged: PagedState, first_row: int = 0, budget: int = 100) -> HostState:
    return moved(Leaving(kv, DEVICE, paged, first_row), budget).host


def from_host(kv: KVCache, pool: PagePool, host: HostState, budget: int = 100) -> PagedState:
    return moved(Arriving(kv, pool, host), budget).paged


@pytest.mark.parametrize("budget", [1, 2 * ROW_BYTES + 1, 1 << 20])
def test_to_the_host_and_back(budget: int) -> None:
    kv, pool = cache(20), PagePool(20, 3)
    paged = state_in_pages(kv, pool, 29)
    host = to_host(kv, paged, 0, budget)
    assert torch.equal(host.memory_rows, rows(6)) and torch.equal(host.window_rows, rows(6, 1))
    paged.release()
    pool.allocate(2)  # other pages than before
    back = from_host(kv, pool, host, budget)
    assert back.state == host.state
    again = to_host(kv, back, 4, budget)
    assert torch.equal(again.memory_rows, rows(6)[4:]) and again.first_row == 4
    with pytest.raises(ValueError, match="first row"):
        from_host(kv, pool, again)


def test_a_state_that_finds_no_pages_takes_none() -> None:
    kv, pool = cache(5), PagePool(5, 3)
    paged = state_in_pages(kv, pool, 29)  # 2 pages of memory, 2 of window
    host = to_host(kv, paged)
    paged.release()
    pool.allocate(2)
    with pytest.raises(OutOfPages):
        from_host(kv, pool, host)
    assert pool.num_used == 2


def test_truncate_to_a_border() -> None:
    kv, pool = cache(20), PagePool(20, 3)
    paged = state_in_pages(kv, pool, 29)
    for windows in (4, -1):
        with pytest.raises(ValueError, match="windows asked of 3"):
            paged.truncate(RULES, windows)
    paged.truncate(RULES, 2)
    assert paged.state == advance(RULES, SCHEDULE, WindowState(), 16)
    assert (paged.memory.length, paged.window.length) == (4, 0)
    assert torch.equal(to_host(kv, paged).memory_rows, rows(6)[:4])


@pytest.mark.parametrize("windows", range(5))
def test_a_cut_knows_the_rest_that_an_uneven_ratio_left(windows: int) -> None:
    """Window 8 at ratio 3 leaves counters 0, 2, 1, 0, 2 at its borders."""
    pool, schedule = PagePool(40, 3), RatioSchedule((3,))
    paged = PagedState.fresh(pool, schedule)
    paged.state = advance(RULES, schedule, WindowState(), 4 * 8 + 5)
    paged.memory.extend(paged.state.memory_rows)
    paged.truncate(RULES, windows)
    assert paged.state == advance(RULES, schedule, WindowState(), windows * 8)
    assert paged.state.open_counter == (0, 2, 1, 0, 2)[windows]


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("start", [0, 5, 8, 13, 21])
@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 30])
def test_worst_case_is_never_exceeded(
    page_size: int, shared: bool, start: int, tokens: int
) -> None:
    """Feeding token by token takes at most what was foretold, at any moment, and reaches it."""
    from memoserve.memory import window as win

    pool = PagePool(100, page_size)
    paged = PagedState.fresh(pool, SCHEDULE)
    paged.state = advance(RULES, SCHEDULE, WindowState(), start)
    paged.memory.extend(paged.state.memory_rows)
    paged.window.extend(open_rows(RULES, SCHEDULE, paged.state))
    reader = paged.fork() if shared else paged
    foretold, before = worst_case_pages(RULES, reader, tokens), pool.num_free
    taken = 0
    for _ in range(tokens):
        plan = win.plan(RULES, SCHEDULE, reader.state, 1)
        reader.window.extend(plan.rows)
        reader.memory.extend(len(plan.targets))
        taken = max(taken, before - pool.num_free)
        reader.state = plan.after
        if plan.closes:
            reader.window.release()
    assert taken <= foretold
    assert foretold - taken <= 2 + 12 // page_size  # not wildly pessimistic
