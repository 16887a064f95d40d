"""One server process, many clients: what is told, counted, refused and given back."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import memoserve_client as mc
from memoserve_client import AsyncClient, Client
from memoserve_client.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from tests.e2e.serving import FEW, Server, answer, command, environment, eventually, serving

BRIDGE = "The iron bridge over the Lenne was built by Ada Brandt in 1871. "
TEXT = BRIDGE + "Rain fell on the quarry, and the miller counted his sacks. " * 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("serving") / "store") as running:
        with running.client() as client:
            client.wait_ready(60)
            client.memorize("book", TEXT, source_id="book.txt")
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as opened:
        yield opened


def test_the_four_calls(client: Client) -> None:
    told: list[mc.MemorizeEvent] = []
    committed = client.memorize("four", TEXT, on_event=told.append, ratio=8, request_id="r1")
    assert isinstance(told[0], mc.Accepted)
    assert isinstance(told[-1], mc.Committed)
    assert any(isinstance(event, mc.Progress) for event in told)
    assert committed.memory.ratio == 8
    assert committed.memory.stats.text_bytes == len(TEXT)
    assert client.memorize("four", "again", request_id="r1").replayed
    with client.recall("four", "Who?", sampling=FEW, stream_tokens=True) as recalled:
        recall = list(recalled)
    assert isinstance(recall[0], mc.Stage)
    assert any(isinstance(event, mc.Token) for event in recall)
    end = recall[-1]
    assert isinstance(end, mc.Final)
    assert 0 < end.usage.generated_tokens <= 24
    assert end.memories[0].version == 1
    with client.retrieve("four", "Who built the bridge?", top_k=1) as retrieved:
        (passage,) = [event for event in retrieved if isinstance(event, mc.Passage)]
    assert TEXT[passage.start_char : passage.end_char] == passage.text
    assert "Ada Brandt" in passage.text
    with client.generate("four", "Who built the bridge?") as generated:
        events = list(generated)
    (quote, *_) = [event for event in events if isinstance(event, mc.Quote)]
    assert quote.text == BRIDGE.strip()
    assert TEXT.encode()[quote.start_byte : quote.end_byte].decode() == quote.text
    assert not any(isinstance(event, mc.Clue) for event in events)  # the card does not vouch


async def test_the_four_calls_from_asyncio(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        committed = await client.memorize("async", TEXT)
        assert committed.memory.version == 1
        async with client.recall("async", "Who?", sampling=FEW) as recalled:
            assert isinstance([event async for event in recalled][-1], mc.Final)
        async with client.retrieve("async", "Who built the bridge?") as retrieved:
            assert any([isinstance(event, mc.Passage) async for event in retrieved])
        async with client.generate("async", "Who built the bridge?") as generated:
            end = [event async for event in generated][-1]
        assert isinstance(end, mc.Final)
        assert "Ada Brandt" in end.text


def test_list_get_update_delete(client: Client) -> None:
    client.create("plain", labels={"a": "b"})
    assert client.get("plain").version == 0
    with pytest.raises(FailedPrecondition):
        list(client.retrieve("plain", "Who?"))
    assert client.update("plain", description="words").labels == {"a": "b"}
    names = [memory.name.memory_id for memory in client.list(page_size=1)]
    assert "plain" in names and names == sorted(names)
    client.delete("plain")
    with pytest.raises(NotFound):
        client.get("plain")
    assert [*client.list(namespace="elsewhere")] == []


def test_eight_clients_at_once_are_told_what_one_alone_is(server: Server, client: Client) -> None:
    alone = answer(client, "book")
    start = threading.Barrier(8)

    def ask(_: int) -> str:
        with server.client() as own:
            own.wait_ready(60)
            start.wait(60)
            return answer(own, "book")

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(8))) == {alone}


def test_a_client_that_vanishes_while_it_sends(server: Server, client: Client) -> None:
    free = client.info().pages_free
    process = subprocess.Popen(
        command("memorize", "gone", "--target", server.address, "--quiet"),
        stdin=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    # More than the client puts into one message, and the pipe stays open behind it.
    process.stdin.write(TEXT.encode() * 80)
    process.stdin.flush()
    eventually(lambda: client.info().pages_free < free, 60)
    process.kill()
    process.wait()
    process.stdin.close()
    eventually(lambda: client.info().pages_free == free)
    eventually(lambda: "gone" not in [memory.name.memory_id for memory in client.list()])


def test_closing_a_query_gives_its_pages_back(client: Client) -> None:
    free = client.info().pages_free
    long = mc.SamplingOptions(max_tokens=2000)
    with client.recall("book", "Who?", sampling=long, stream_tokens=True) as events:
        for event in events:
            if isinstance(event, mc.Token):
                break
        assert client.info().pages_free < free
    eventually(lambda: client.info().pages_free == free)


@pytest.mark.parametrize("text", [b"", b"caf\xe9", b"cut \xe2\x82", b"\xed\xa0\x80", b"a\0b"])
def test_bad_text_is_named_and_nothing_is_kept(client: Client, text: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.memorize("bad", text)
    (violation,) = caught.value.violations
    assert "text" in violation.field
    with pytest.raises(NotFound):
        client.get("bad")


def test_two_writers(client: Client) -> None:
    ready, go = threading.Event(), threading.Event()

    def slowly() -> Iterator[str]:
        yield TEXT
        ready.set()
        go.wait(60)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.memorize, "contested", slowly())
        assert ready.wait(60)
        eventually(lambda: "contested" in [m.name.memory_id for m in client.list()])
        with pytest.raises(Aborted):
            client.memorize("contested", "x")
        with pytest.raises(Aborted):
            client.delete("contested")
        go.set()
        assert first.result(60).memory.version == 1


def test_health_and_reflection(server: Server, client: Client) -> None:
    client.wait_ready(10, service="memoserve.v1.QueryService")
    with grpc.insecure_channel(server.address) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    ours = {f"memoserve.v1.{name}Service" for name in ("Memory", "Query", "Server")}
    assert services >= ours | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def test_info_tells_what_the_server_is(client: Client) -> None:
    info = client.info()
    assert (info.model.name, info.model.clues_trusted) == ("tiny", False)
    assert set(info.generators) == {"quote", "memory-model"}
    assert "MiniLM" in info.embedder


MOVING = [
    'memoserve_rpc_seconds_count{code="OK",method="/memoserve.v1.QueryService/Generate"}',
    'memoserve_raw_tokens_total{use="memorize"}',
    'memoserve_raw_tokens_total{use="prompt"}',
    'memoserve_raw_tokens_total{use="decode"}',
    "memoserve_step_seconds_count",
    "memoserve_queue_seconds_count",
    'memoserve_first_token_seconds_count{stage="generate"}',
    "memoserve_between_tokens_seconds_count",
    "memoserve_commits_total",
    "memoserve_stored_bytes_total",
    "memoserve_memorize_tokens_per_second_count",
]


def test_metrics_move(server: Server, client: Client) -> None:
    before = server.metrics()
    client.memorize("counted", TEXT)
    answer(client, "counted")
    after = server.metrics()
    still = [name for name in MOVING if not after[name] > before.get(name, 0.0)]
    assert not still
    assert after["memoserve_engine_up"] == 1
    assert after['memoserve_pages{state="free"}'] < before['memoserve_pages{state="free"}']
    assert sum(v for n, v in after.items() if n.startswith("memoserve_memories{")) == len(
        list(client.list())
    )


def test_a_file_is_sent_as_it_is_read(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "Größe.txt"
    path.write_text(TEXT * 3 + "größer", encoding="utf-8")
    with path.open("rb") as file:
        committed = client.memorize("file", file)
    assert committed.memory.stats.text_bytes == path.stat().st_size
