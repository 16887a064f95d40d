"""Write the Python stubs of the contract to protos/memoserve_proto/v1 (`make proto`).

The contract is compiled as ``memoserve/v1/*.proto``, the paths every other language sees. Python
modules of that name would lie inside the server's own package, so the compiled descriptors are
renamed to ``memoserve_proto/v1/*.proto`` before the code is written: all imports come out right
and no generated line is patched. Use: ``from memoserve_proto.v1 import memory_service_pb2``.

The gRPC plugin writes no types, so a ``.pyi`` is written here. For each service: ``XStub``
(blocking channel), ``XAsyncStub`` (the same object made from an asyncio channel; exists for type
checkers only) and ``XServicer`` (asyncio server).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
SOURCE_DIR = "memoserve/v1/"
PYTHON_DIR = "memoserve_proto/v1/"
PACKAGE_FILES = {
    "memoserve_proto/__init__.py": '"""Generated stubs of memoserve\'s gRPC contract."""\n',
    "memoserve_proto/v1/__init__.py": '"""Stubs of package memoserve.v1."""\n',
    "memoserve_proto/py.typed": "",
}
HEADER = '''"""Types of the services in {name}. Generated, do not edit."""

from collections.abc import AsyncIterator
from typing import type_check_only

import grpc
import grpc.aio

{imports}
'''


def run_protoc(*arguments: str) -> None:
    """Run the bundled protoc; exits with its message when it fails."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    if protoc.main(["protoc", *arguments, f"-I{well_known}"]) != 0:
        sys.exit("protoc failed")


def compile_contract(scratch: Path) -> FileDescriptorSet:
    """Descriptors of all contract files with comments, and of what they import."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob(f"{SOURCE_DIR}*.proto"))
    target = scratch / "contract.binpb"
    run_protoc(
        f"-I{PROTOS}",
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={target}",
        *sources,
    )
    return FileDescriptorSet.FromString(target.read_bytes())


def python_path(path: str) -> str:
    """Where the file is found by Python's import; others' files stay where they are."""
    return PYTHON_DIR + path.removeprefix(SOURCE_DIR) if path.startswith(SOURCE_DIR) else path


def rename(files: FileDescriptorSet) -> list[str]:
    """Move the contract to PYTHON_DIR, in place. Returns the new paths."""
    moved = []
    for file in files.file:
        if file.name.startswith(SOURCE_DIR):
            moved.append(python_path(file.name))
        file.name = python_path(file.name)
        file.dependency[:] = [python_path(path) for path in file.dependency]
    return moved


def service_types(file: FileDescriptorProto, files: FileDescriptorSet) -> str:
    """Text of the ``.pyi`` beside ``file``'s ``_pb2_grpc.py``."""
    modules = message_modules(files)
    used = sorted({modules[type_] for service in file.service for type_ in message_types(service)})
    imports = "\n".join(
        f"from {module.rpartition('.')[0]} import {stem(module)}" for module in used
    )
    blocks = [HEADER.replace("{name}", file.name).replace("{imports}", imports)]
    for service in file.service:
        names = {type_: python_type(type_, modules) for type_ in message_types(service)}
        blocks += [stub_class(service, names, asyncio=False)]
        blocks += [stub_class(service, names, asyncio=True), servicer_class(service, names)]
        blocks += [
            f"def add_{service.name}Servicer_to_server(\n"
            f"    servicer: {service.name}Servicer, server: grpc.aio.Server\n) -> None: ...\n"
        ]
    return "\n".join(blocks)


def message_modules(files: FileDescriptorSet) -> dict[str, str]:
    """Python module of each top-level message, by its full name with a leading dot."""
    return {
        f".{file.package}.{message.name}": file.name.removesuffix(".proto").replace("/", ".")
        + "_pb2"
        for file in files.file
        for message in file.message_type
    }


def message_types(service: ServiceDescriptorProto) -> set[str]:
    """Full names of all requests and responses."""
    return {name for method in service.method for name in (method.input_type, method.output_type)}


def stem(module: str) -> str:
    """Last part of a dotted name."""
    return module.rpartition(".")[2]


def python_type(type_: str, modules: dict[str, str]) -> str:
    """How the stub file names a message."""
    return f"{stem(modules[type_])}.{stem(type_)}"


def shape(method: MethodDescriptorProto) -> str:
    """GRPC's word for which sides stream."""
    sides = (method.client_streaming, method.server_streaming)
    return "".join("Stream" if streaming else "Unary" for streaming in sides)


def stub_class(service: ServiceDescriptorProto, names: dict[str, str], *, asyncio: bool) -> str:
    """The client's side."""
    room = "grpc.aio" if asyncio else "grpc"
    lines = ["@type_check_only"] if asyncio else []
    lines += [f"class {service.name}{'Async' if asyncio else ''}Stub:"]
    if not asyncio:
        lines += ["    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None: ..."]
    for method in service.method:
        request, response = names[method.input_type], names[method.output_type]
        lines += [f"    {method.name}: {room}.{shape(method)}MultiCallable["]
        lines += [f"        {request}, {response}", "    ]"]
    return "\n".join([*lines, ""])


def servicer_class(service: ServiceDescriptorProto, names: dict[str, str]) -> str:
    """The server's side; a method that streams its answer is an asynchronous generator."""
    lines = [f"class {service.name}Servicer:"]
    for method in service.method:
        request, response = names[method.input_type], names[method.output_type]
        argument = f"request: {request}"
        if method.client_streaming:
            argument = f"request_iterator: AsyncIterator[{request}]"
        result = f"AsyncIterator[{response}]" if method.server_streaming else response
        lines += [
            f"    {'' if method.server_streaming else 'async '}def {method.name}(",
            "        self,",
            f"        {argument},",
            f"        context: grpc.aio.ServicerContext[{request}, {response}],",
            f"    ) -> {result}: ...",
        ]
    return "\n".join([*lines, ""])


def generate(out: Path) -> None:
    """Write every stub file below ``out``, which must exist."""
    with tempfile.TemporaryDirectory() as scratch:
        files = compile_contract(Path(scratch))
        moved = rename(files)
        renamed = Path(scratch) / "renamed.binpb"
        renamed.write_bytes(files.SerializeToString())
        run_protoc(
            f"--descriptor_set_in={renamed}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            *moved,
        )
        with_services = [file.name for file in files.file if file.service and file.name in moved]
        run_protoc(f"--descriptor_set_in={renamed}", f"--grpc_python_out={out}", *with_services)
    for file in files.file:
        if file.name in with_services:
            stem = file.name.removesuffix(".proto")
            (out / f"{stem}_pb2_grpc.pyi").write_text(service_types(file, files), encoding="utf-8")
    for name, text in PACKAGE_FILES.items():
        (out / name).write_text(text, encoding="utf-8")


def stubs(folder: Path) -> dict[str, bytes]:
    """Every stub file below ``folder`` by its relative path."""
    found = (folder / "memoserve_proto").rglob("*")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.is_file() and "__pycache__" not in path.parts
    }


def main() -> None:
    """Regenerate, or with --check compare and exit 1 on a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = stubs(Path(folder)), stubs(PROTOS)
    changed = sorted(name for name in fresh | committed if fresh.get(name) != committed.get(name))
    if check and changed:
        sys.exit(f"stubs differ from the contract, run `make proto`: {', '.join(changed)}")
    for name in [] if check else changed:
        path = PROTOS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in fresh:
            path.write_bytes(fresh[name])
        else:
            path.unlink()


if __name__ == "__main__":
    main()
