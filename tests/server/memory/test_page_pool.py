"""Reference counts: free + referenced = all, and who breaks it is caught."""

from __future__ import annotations

import pytest

from memoserve.memory.page_pool import IntegrityError, OutOfPages, PagePool


def test_a_fresh_pool_hands_out_neighbouring_pages() -> None:
    pool = PagePool(6, 4)
    assert pool.allocate(4) == [0, 1, 2, 3]
    assert (pool.num_free, pool.num_used, pool.num_shared) == (2, 4, 0)


def test_too_many_pages_take_none() -> None:
    pool = PagePool(3, 4)
    pool.allocate(1)
    with pytest.raises(OutOfPages) as caught:
        pool.allocate(3)
    assert (caught.value.needed, caught.value.free) == (3, 2)
    assert pool.num_free == 2


def test_the_last_reference_frees() -> None:
    pool = PagePool(2, 4)
    pages = pool.allocate(1)
    pool.retain(pages)
    assert (pool.references(pages[0]), pool.num_shared) == (2, 1)
    pool.release(pages)
    assert (pool.num_free, pool.num_shared) == (1, 0)
    pool.release(pages)
    assert pool.num_free == 2


def test_misuse_is_caught() -> None:
    pool = PagePool(2, 4)
    with pytest.raises(IntegrityError, match="free and cannot be retained"):
        pool.retain([0])
    pages = pool.allocate(1)
    pool.release(pages)
    with pytest.raises(IntegrityError, match="released twice"):
        pool.release(pages)


def test_a_pool_needs_pages() -> None:
    for num_pages, page_size in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="needs pages"):
            PagePool(num_pages, page_size)


def test_integrity_holds_for_who_holds() -> None:
    pool = PagePool(4, 2)
    one, two = pool.allocate(2), pool.allocate(1)
    pool.retain(one[:1])
    pool.check_integrity([one, two, one[:1]])


def test_integrity_finds_every_kind_of_break() -> None:
    pool = PagePool(4, 2)
    pages = pool.allocate(2)
    with pytest.raises(IntegrityError, match="0 tables hold it, 1 counted"):
        pool.check_integrity([pages[:1]])  # a page is lost
    with pytest.raises(IntegrityError, match="2 tables hold it, 1 counted"):
        pool.check_integrity([pages, pages])  # shared, not counted
    with pytest.raises(IntegrityError, match="1 tables hold it, 0 counted"):
        pool.check_integrity([[*pages, 3]])  # held though free
    pool._free.append(pool._free[0])
    with pytest.raises(IntegrityError, match="free twice"):
        pool.check_integrity([pages])
    pool._free[:] = [2]
    with pytest.raises(IntegrityError, match="2 pages without a reference, 1 free"):
        pool.check_integrity([pages])
