"""Contract, stubs, client and the server's values say the same."""

from __future__ import annotations

import dataclasses
import enum
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

import memoserve_client as mc
from memoserve.pipeline import values
from memoserve_client import options
from memoserve_client._enums import _WIRE, from_wire, from_wire_optional, to_wire
from memoserve_client.types import as_name, as_ref
from memoserve_proto.v1 import common_pb2, memory_pb2, query_pb2, server_service_pb2
from memoserve_proto.v1 import memory_service_pb2 as ms
from memoserve_proto.v1 import query_service_pb2 as qs

ROOT = Path(__file__).resolve().parents[2]

MESSAGES: dict[type[Any], Any] = {
    mc.MemoryName: common_pb2.MemoryName,
    mc.MemoryRef: common_pb2.MemoryRef,
    mc.Notice: common_pb2.Notice,
    mc.Memory: memory_pb2.Memory,
    mc.MemoryStats: memory_pb2.MemoryStats,
    mc.Accepted: ms.MemorizeAccepted,
    mc.Progress: ms.MemorizeProgress,
    mc.Committed: ms.MemorizeCommitted,
    mc.Stage: query_pb2.Stage,
    mc.Clue: query_pb2.Clue,
    mc.Passage: query_pb2.Passage,
    mc.Quote: query_pb2.Quote,
    mc.Token: query_pb2.Token,
    mc.Usage: query_pb2.Usage,
    mc.Final: query_pb2.Final,
    mc.ModelInfo: server_service_pb2.ModelInfo,
    mc.ServerInfo: server_service_pb2.ServerInfo,
    mc.SamplingOptions: query_pb2.SamplingOptions,
}
OPTIONS: dict[type[Any], tuple[Any, set[str]]] = {
    options.MemorizeOptions: (ms.MemorizeHeader, {"name"}),
    options.RecallOptions: (qs.RecallRequest, {"memories", "query"}),
    options.RetrieveOptions: (qs.RetrieveRequest, {"memories", "query"}),
    options.GenerateOptions: (qs.GenerateRequest, {"memories", "query"}),
}
VALUES: dict[type[Any], Any] = {
    values.MemoryRef: common_pb2.MemoryRef,
    values.MemoryName: common_pb2.MemoryName,
    values.MemoryView: memory_pb2.Memory,
    values.MemoryStats: memory_pb2.MemoryStats,
    values.CreateSpec: ms.CreateMemoryRequest,
    values.MemorizeHeader: ms.MemorizeHeader,
    values.TextPiece: ms.TextPiece,
    values.Accepted: ms.MemorizeAccepted,
    values.Progress: ms.MemorizeProgress,
    values.Notice: common_pb2.Notice,
    values.Committed: ms.MemorizeCommitted,
    values.SamplingOptions: query_pb2.SamplingOptions,
    values.Clue: query_pb2.Clue,
    values.Passage: query_pb2.Passage,
    values.Token: query_pb2.Token,
    values.Stage: query_pb2.Stage,
    values.Quote: query_pb2.Quote,
    values.Usage: query_pb2.Usage,
    values.Final: query_pb2.Final,
    values.RecallQuery: qs.RecallRequest,
    values.RetrieveQuery: qs.RetrieveRequest,
    values.GenerateQuery: qs.GenerateRequest,
    values.ModelInfo: server_service_pb2.ModelInfo,
    values.ServerInfo: server_service_pb2.ServerInfo,
}
# Where the contract's word differs from the pipeline's.
RENAMED: dict[type[Any], dict[str, str]] = {
    values.MemoryView: {"created_unix_s": "create_time", "updated_unix_s": "update_time"},
    values.TextPiece: {"text": "text_utf8"},
    values.RetrieveQuery: {"max_tokens": "max_evidence_tokens"},
    values.GenerateQuery: {"max_tokens": "max_evidence_tokens"},
}


def wire_names(message: Any) -> set[str]:
    descriptor: Descriptor = message.DESCRIPTOR
    return {field.name for field in descriptor.fields}


def field_names(cls: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_a_clients_value_has_the_fields_of_its_message(cls: type[Any]) -> None:
    assert field_names(cls) == wire_names(MESSAGES[cls])


@pytest.mark.parametrize("cls", OPTIONS, ids=lambda cls: cls.__name__)
def test_options_are_the_fields_of_the_request(cls: type[Any]) -> None:
    message, arguments = OPTIONS[cls]
    assert set(cls.__annotations__) | arguments == wire_names(message)


@pytest.mark.parametrize("cls", VALUES, ids=lambda cls: cls.__name__)
def test_the_contract_carries_the_pipelines_values(cls: type[Any]) -> None:
    renamed = RENAMED.get(cls, {})
    assert {renamed.get(name, name) for name in field_names(cls)} == wire_names(VALUES[cls])


@pytest.mark.parametrize("cls", _WIRE, ids=lambda cls: cls.__name__)
def test_words_go_there_and_back(cls: type[enum.Enum]) -> None:
    wire, prefix = _WIRE[cls]
    known = [word for word in cls if word.name != "UNKNOWN"]
    numbers = [to_wire(word) for word in known]
    assert [wire.Name(number) for number in numbers] == [prefix + word.name for word in known]
    assert [from_wire(cls, number) for number in numbers] == known
    # All of the contract's words but the unspecified one are known.
    assert sorted(numbers) == list(range(1, len(known) + 1))
    with pytest.raises(ValueError, match="no name defined"):
        wire.Name(len(known) + 1)
    theirs = getattr(values, cls.__name__, None)
    if theirs is not None:
        assert {word.name for word in theirs} == {word.name for word in known}


def test_words_that_are_not_known() -> None:
    assert from_wire(mc.Tier, 99) is from_wire(mc.Tier, 0) is mc.Tier.UNKNOWN
    assert from_wire_optional(mc.ClueKind, 0) is None
    assert from_wire_optional(mc.ClueKind, 99) is mc.ClueKind.UNKNOWN
    with pytest.raises(ValueError, match="cannot be sent"):
        to_wire(mc.Tier.UNKNOWN)


def test_every_method_of_the_contract_is_called_or_known_as_missing() -> None:
    source = (ROOT / "clients/python/memoserve_client/_async/client.py").read_text()
    methods = {
        method.name
        for module in (ms, qs, server_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    called = {method for method in methods if f".{method}" in source}
    assert methods - called == {"ExportMemory", "ImportMemory"}


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("book", "default/book", None),
        ("team/book", "team/book", None),
        ("team/book@12", "team/book", 12),
        ("book@0", "default/book", 0),
    ],
)
def test_references_are_read(text: str, name: str, version: int | None) -> None:
    ref = as_ref(text)
    assert (str(ref.name), ref.version) == (name, version)
    assert as_ref(str(ref)) == as_ref(ref) == ref
    assert as_ref(ref.name) == mc.MemoryRef(ref.name) and as_name(ref.name, "x") == ref.name


@pytest.mark.parametrize("text", ["book@", "book@x", "book@-1", "book@1@2", "book@\u0663"])
def test_a_version_is_a_number(text: str) -> None:
    with pytest.raises(ValueError, match="number of a version"):
        as_ref(text)


def test_an_option_that_is_none_of_the_contracts_is_refused() -> None:
    with mc.Client("127.0.0.1:1") as client, pytest.raises(ValueError, match="top_q"):
        client.recall("book", "q", top_q=3)  # type: ignore[call-arg]


def test_the_stubs_and_the_blocking_client_are_up_to_date() -> None:
    for tool in ("generate_stubs.py", "unasync.py"):
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / tool), "--check"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_both_clients_offer_the_same() -> None:
    def public(cls: type[Any]) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    assert public(mc.AsyncClient) - {"aclose"} == public(mc.Client) - {"close"}
    assert public(mc.AsyncEventStream) - {"aclose"} == public(mc.EventStream) - {"close"}


def test_all_names_what_is_public() -> None:
    modules = {"errors", "events", "options", "text", "types", "annotations"}
    public = {name for name in vars(mc) if not name.startswith("_")} - modules
    assert set(mc.__all__) == public | {"errors"}
    assert mc.__all__ == sorted(mc.__all__)


def test_the_client_needs_no_part_of_the_server() -> None:
    blocked = "torch numpy transformers tokenizers safetensors faiss memoserve memoserve_kernels"
    program = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked.split()!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
import memoserve_client
with memoserve_client.Client("127.0.0.1:1") as client:
    client.generate("book", "q").close()
print(len(memoserve_client.__all__))
try:
    import torch
except ImportError as error:
    print(error)
"""
    path = f"{ROOT / 'protos'}:{ROOT / 'clients/python'}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path, "PATH": ""},
    )
    assert done.stdout.split("\n")[:2] == [str(len(mc.__all__)), "blocked: torch"], done.stderr
