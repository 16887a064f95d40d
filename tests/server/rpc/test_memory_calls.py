from __future__ import annotations

import grpc.aio
import pytest

from memoserve.pipeline.values import CreateSpec, Language, MemoryName, MemoryRef
from memoserve_proto.v1 import common_pb2, memory_pb2, server_service_pb2
from memoserve_proto.v1 import memory_service_pb2 as pb2
from tests.server.rpc.calls import BOOK, details_of, failure_of, memory_stub, server_stub
from tests.server.rpc.fake_pipeline import FakePipeline, make_view

NAME = MemoryName("team", "book")


async def test_create_passes_every_field(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    request = pb2.CreateMemoryRequest(
        name=BOOK,
        ratio=0,
        language=common_pb2.LANGUAGE_EN,
        labels={"kind": "novel"},
        description="a book",
    )
    await memory_stub(channel).CreateMemory(request)
    spec = CreateSpec(NAME, 0, Language.EN, {"kind": "novel"}, "a book")
    assert pipeline.calls == [("create", spec)]


async def test_create_leaves_absent_fields_to_the_pipeline(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    name = common_pb2.MemoryName(memory_id="book")
    await memory_stub(channel).CreateMemory(pb2.CreateMemoryRequest(name=name))
    assert pipeline.calls == [("create", CreateSpec(MemoryName("default", "book")))]


async def test_get_returns_every_field(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    response = await memory_stub(channel).GetMemory(pb2.GetMemoryRequest(name=BOOK))
    memory = response.memory
    assert pipeline.calls == [("get", MemoryRef(NAME))]
    unset = {field.name for field in memory.DESCRIPTOR.fields} - {
        field.name for field, _ in memory.ListFields()
    }
    assert unset == set()
    assert memory.name == BOOK
    assert (memory.version, memory.etag, memory.model) == (3, "e3", "tiny")
    assert (memory.ratio, list(memory.ratios), memory.window) == (8, [4, 8], 64)
    assert memory.language == common_pb2.LANGUAGE_ZH
    assert memory.tier == common_pb2.TIER_HOST
    assert memory.pinned
    assert dict(memory.labels) == {"kind": "novel"}
    assert memory.description == "a book"
    assert memory.create_time.ToMicroseconds() == 1700000000_250000
    assert memory.update_time.ToMicroseconds() == 1700000001_500000
    # The fake counts its statistics up in the order of the fields.
    assert [value for _, value in memory.stats.ListFields()] == list(range(1, 14))


@pytest.mark.parametrize(("asked", "passed"), [(0, 100), (7, 7), (1000, 1000), (5000, 1000)])
async def test_list_bounds_its_page(
    channel: grpc.aio.Channel, pipeline: FakePipeline, asked: int, passed: int
) -> None:
    pipeline.next_token = "more"
    request = pb2.ListMemoriesRequest(
        namespace="team", page_size=asked, page_token="t", filter='labels.kind = "novel"'
    )
    response = await memory_stub(channel).ListMemories(request)
    assert pipeline.calls == [("list", "team", passed, "t", 'labels.kind = "novel"')]
    assert response.next_page_token == "more"
    assert [memory.name for memory in response.memories] == [BOOK]


async def test_list_sends_a_shorter_page_where_it_would_not_fit(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    labels = {f"key{n}": "v" * 256 for n in range(64)}
    pipeline.views = [make_view(f"m{n}", labels=labels) for n in range(500)]
    response = await memory_stub(channel).ListMemories(pb2.ListMemoriesRequest(page_size=500))
    assert [call[2] for call in pipeline.calls] == [500, 250, 125, 62]
    assert [memory.name.memory_id for memory in response.memories] == [f"m{n}" for n in range(62)]


@pytest.mark.parametrize(
    ("paths", "labels", "description"),
    [
        (["labels"], {"a": "b"}, None),
        (["description"], None, "new"),
        (["labels", "description"], {"a": "b"}, "new"),
    ],
)
async def test_update_changes_what_the_mask_names(
    channel: grpc.aio.Channel,
    pipeline: FakePipeline,
    paths: list[str],
    labels: dict[str, str] | None,
    description: str | None,
) -> None:
    request = pb2.UpdateMemoryRequest(
        memory=memory_pb2.Memory(name=BOOK, etag="e3", labels={"a": "b"}, description="new")
    )
    request.update_mask.paths.extend(paths)
    response = await memory_stub(channel).UpdateMemory(request)
    assert pipeline.calls == [("update", NAME, labels, description, "e3")]
    assert response.memory.version == 3


async def test_delete(channel: grpc.aio.Channel, pipeline: FakePipeline) -> None:
    await memory_stub(channel).DeleteMemory(pb2.DeleteMemoryRequest(name=BOOK, etag="e3"))
    assert pipeline.calls == [("delete", NAME, "e3")]


async def test_server_info_tells_every_field(channel: grpc.aio.Channel) -> None:
    request = server_service_pb2.GetServerInfoRequest()
    info = (await server_stub(channel).GetServerInfo(request)).info
    for message in (info, info.model):
        assert len(message.ListFields()) == len(message.DESCRIPTOR.fields)
    assert (info.version, info.backend, info.device) == ("1.2.3", "cpu", "a CPU")
    assert (info.default_generator, list(info.generators)) == ("quote", ["quote", "engine"])
    assert (info.embedder, info.page_size, info.pages_total) == ("minilm", 16, 100)
    assert (info.pages_free, info.max_message_bytes) == (60, 4194304)
    assert (info.max_piece_bytes, info.max_query_bytes) == (1048576, 65536)
    model = info.model
    assert (model.name, model.family, model.fingerprint) == ("tiny", "qwen2", "f00d")
    assert (model.window, list(model.ratios), model.default_ratio) == (64, [2, 4], 4)
    assert (model.max_positions, model.layers, model.kv_heads, model.head_dim) == (4096, 2, 1, 16)
    assert (model.dtype, model.card, model.clues_trusted) == ("float32", "untrained", True)


async def test_what_is_not_built_says_so(channel: grpc.aio.Channel) -> None:
    stub = memory_stub(channel)
    calls = {
        "SetResidency": stub.SetResidency(pb2.SetResidencyRequest()),
        "ExportMemory": stub.ExportMemory(pb2.ExportMemoryRequest()),
        "ImportMemory": stub.ImportMemory(iter([pb2.ImportMemoryRequest()])),
    }
    for method, call in calls.items():
        error = await failure_of(call)
        info = details_of(error)["ErrorInfo"]
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (info.reason, info.metadata["method"]) == ("NOT_BUILT", method)
