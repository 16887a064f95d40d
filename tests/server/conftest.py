"""Every engine that a test made is checked when the test ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def pages_accounted_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After a test, each engine's pages are free or held by exactly who says so."""
    from memoserve.engine.engine import Engine

    made: list[Engine] = []
    build = Engine.__init__

    def noted(self: Engine, *args: object, **more: object) -> None:
        build(self, *args, **more)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Engine, "__init__", noted)
    yield
    for engine in made:
        engine.check_integrity()
