"""What outlives a server: every commit that was told, whatever ended the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memoserve_client as mc
from memoserve_client import Client
from memoserve_client.errors import MemoserveError, Unavailable
from tests.e2e.serving import answer, eventually, serving, untrained

TEXT = "The iron bridge over the Lenne was built by Ada Brandt in 1871. " * 40


def endless(client_started: threading.Event) -> Iterator[str]:
    yield TEXT
    client_started.set()
    threading.Event().wait(60)


def test_a_commit_outlives_kill_9_and_a_half_one_leaves_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    model = untrained(tmp_path / "model")  # it writes to the end of what it may
    with serving(store, "--model", str(model)) as server, server.client() as client:
        client.memorize("other", TEXT[:500])
        wanted = {"other": answer(client, "other")}
        started = threading.Event()

        def half() -> None:
            with server.client() as own, pytest.raises(MemoserveError):
                own.memorize("half", endless(started))

        writing = threading.Thread(target=half)
        writing.start()
        assert started.wait(60)
        eventually(lambda: "half" in [memory.name.memory_id for memory in client.list()])
        client.memorize("book", TEXT)
        server.kill()  # the moment that Committed was told
        writing.join(60)
        with pytest.raises(Unavailable):
            client.get("book")
    with serving(store, "--model", str(model)) as server, server.client() as client:
        listed = {memory.name.memory_id: memory for memory in client.list()}
        assert set(listed) == {"book", "other"}
        assert listed["book"].tier is mc.Tier.COLD
        assert listed["book"].stats.text_bytes == len(TEXT)
        assert answer(client, "other") == wanted["other"]
        first = answer(client, "book")
        grown = client.memorize("book", " More of it.", source_id="")
        assert grown.memory.version == 2
        assert answer(client, "book@1") == first
        drains(client, server.terminate)
        assert server.process.returncode == 0


def drains(client: Client, terminate: Callable[[], int]) -> None:
    """SIGTERM lets the call in flight come to its end and takes no new one."""
    sampling = mc.SamplingOptions(max_tokens=300)
    ended: list[int] = []
    with client.recall("book", "Who?", sampling=sampling, stream_tokens=True) as events:
        next(event for event in events if isinstance(event, mc.Token))
        stopping = threading.Thread(target=lambda: ended.append(terminate()))
        stopping.start()
        rest = list(events)
        last = rest[-1]
    assert isinstance(last, mc.Final)
    assert last.usage.generated_tokens == 600
    with pytest.raises(Unavailable):
        client.get("book")
    stopping.join(60)
    assert ended == [0]
