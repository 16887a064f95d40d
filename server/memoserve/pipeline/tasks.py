"""Errors of task groups, told as the one error they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from memoserve.errors import MemoserveError


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
