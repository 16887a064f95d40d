"""Page tables: forks share, the first write copies the tail, nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memoserve.memory.page_pool import OutOfPages, PagePool
from memoserve.memory.page_table import PageCopy, PageTable


def filled(pool: PagePool, rows: int) -> PageTable:
    table = PageTable(pool)
    assert table.extend(rows) == []
    return table


def test_rows_lie_in_pages_in_order() -> None:
    pool = PagePool(8, 3)
    pool.allocate(2)
    table = filled(pool, 5)
    assert table.pages == [2, 3]
    assert table.slots(1, 5).tolist() == [7, 8, 9, 10]
    assert table.slots_of(np.array([4, 0])).tolist() == [10, 6]
    assert table.slots(2, 2).tolist() == []
    assert (table.length, table.wasted_slots) == (5, 1)


def test_a_fork_takes_no_page() -> None:
    pool = PagePool(8, 3)
    table = filled(pool, 5)
    twin = table.fork()
    assert pool.num_used == 2
    assert (twin.pages, twin.length) == (table.pages, 5)
    assert table.num_exclusive == twin.num_exclusive == 0


def test_the_first_write_copies_a_shared_tail_only() -> None:
    pool = PagePool(8, 3)
    table = filled(pool, 5)
    twin = table.fork()
    assert twin.pages_to_extend(1) == 1
    assert twin.extend(1) == [PageCopy(source=1, target=2, rows=2)]
    assert (twin.pages, table.pages) == ([0, 2], [0, 1])
    assert pool.references(0) == 2 and pool.references(1) == pool.references(2) == 1
    # Its own tail now: the next write copies nothing, and neither does the other reader's.
    assert twin.extend(1) == [] and table.extend(1) == []


def test_a_full_tail_is_not_copied() -> None:
    pool = PagePool(8, 3)
    table = filled(pool, 6)
    twin = table.fork()
    assert (twin.pages_to_extend(2), twin.extend(2)) == (1, [])
    assert twin.pages[:2] == table.pages


def test_an_exclusive_tail_is_not_copied() -> None:
    pool = PagePool(8, 3)
    table = filled(pool, 5)
    table.fork().release()
    assert (table.pages_to_extend(1), table.extend(1)) == (0, [])


def test_nothing_is_written_nothing_is_copied() -> None:
    pool = PagePool(8, 3)
    table = filled(pool, 5)
    twin = table.fork()
    assert (twin.pages_to_extend(0), twin.extend(0)) == (0, [])
    assert twin.pages == table.pages


def test_a_table_that_finds_no_pages_is_unchanged() -> None:
    pool = PagePool(3, 3)
    table = filled(pool, 5)
    twin = table.fork()
    with pytest.raises(OutOfPages):
        twin.extend(4)
    assert (twin.length, twin.pages) == (5, [0, 1])
    pool.check_integrity([table.pages, twin.pages])


def test_truncate_gives_pages_back() -> None:
    pool = PagePool(8, 3)
    table = filled(pool, 8)
    table.truncate(3)
    assert (table.pages, table.length, pool.num_used) == ([0], 3, 1)
    for rows in (4, -1):
        with pytest.raises(ValueError, match="cannot cut"):
            table.truncate(rows)
    table.release()
    table.release()
    assert pool.num_used == 0


class Readers(RuleBasedStateMachine):
    """Forks, writes and cuts in any order: each reader reads what it wrote, always."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(24, 3)
        self.slots = [-1] * (24 * 3)  # what lies in each slot
        self.readers: list[tuple[PageTable, list[int]]] = [(PageTable(self.pool), [])]
        self.written = 0

    def pick(self, data: st.DataObject) -> tuple[PageTable, list[int]]:
        return data.draw(st.sampled_from(self.readers))

    @precondition(lambda self: len(self.readers) < 6)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        table, rows = self.pick(data)
        self.readers.append((table.fork(), list(rows)))

    @rule(data=st.data(), count=st.integers(0, 7))
    def write(self, data: st.DataObject, count: int) -> None:
        table, rows = self.pick(data)
        foretold, free = table.pages_to_extend(count), self.pool.num_free
        try:
            copies = table.extend(count)
        except OutOfPages:
            assert foretold > free == self.pool.num_free
            return
        assert free - self.pool.num_free == foretold
        for copy in copies:
            source, target = copy.source * 3, copy.target * 3
            self.slots[target : target + copy.rows] = self.slots[source : source + copy.rows]
        for slot in table.slots(len(rows), len(rows) + count).tolist():
            self.slots[slot] = self.written
            rows.append(self.written)
            self.written += 1

    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        table, rows = self.pick(data)
        keep = data.draw(st.integers(0, len(rows)))
        table.truncate(keep)
        del rows[keep:]

    @precondition(lambda self: len(self.readers) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader = self.pick(data)
        reader[0].release()
        self.readers.remove(reader)

    @invariant()
    def everyone_reads_what_it_wrote(self) -> None:
        for table, rows in self.readers:
            assert table.length == len(rows)
            assert [self.slots[s] for s in table.slots(0, len(rows)).tolist()] == rows
            assert table.wasted_slots == len(table.pages) * 3 - len(rows)
            assert list(table.as_tuple) == table.pages

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        self.pool.check_integrity([table.pages for table, _ in self.readers])


Readers.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestReaders = Readers.TestCase
