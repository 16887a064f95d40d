"""States and answers that must agree within 1e-9."""

from __future__ import annotations

from memoserve.engine.sequence import Logits, MemoryHandle
from memoserve.memory.memory import HostState
from tests.server.engine.draws import World, close
from tests.server.fixtures import Driver, Outcome


def same_state(actual: HostState, wanted: HostState) -> None:
    assert actual.state == wanted.state
    close(actual.memory_rows, wanted.memory_rows)
    close(actual.window_rows, wanted.window_rows)


def same_answer(actual: Outcome, wanted: Outcome) -> bool:
    """Tokens and logits agree; False where a close call makes the rest incomparable."""
    certain = wanted.certain_tokens
    assert actual.tokens[:certain] == wanted.tokens[:certain]
    if certain < len(wanted.tokens):
        return False
    close(actual.logits, wanted.logits)
    return True


def memory_of(world: World, tokens: tuple[int, ...], driver: Driver) -> MemoryHandle:
    return driver.compress(tokens, None, world.schedule, Logits.NONE).memory
