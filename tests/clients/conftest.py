"""A fake server for each test, and both clients in turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.clients.caller import Caller
from tests.clients.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture(params=["async", "sync"])
async def caller(request: pytest.FixtureRequest, server: FakeServer) -> AsyncIterator[Caller]:
    async with Caller(request.param, server.target) as made:
        yield made
