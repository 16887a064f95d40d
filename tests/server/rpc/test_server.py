from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from memoserve.errors import FailedPrecondition, InvalidArgument
from memoserve.pipeline.values import Token
from memoserve.rpc.options import RpcOptions, TlsFiles
from memoserve.rpc.server import SERVICES, RpcServer, build_server
from memoserve_proto.v1 import query_service_pb2, server_service_pb2
from tests.server.rpc.calls import REF, details_of, failure_of, query_stub, server_stub
from tests.server.rpc.fake_pipeline import FakePipeline

RECALL = query_service_pb2.RecallRequest(memories=[REF], query="q")
INFO = server_service_pb2.GetServerInfoRequest()
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
EVERY_SERVICE = {
    *("memoserve.v1.MemoryService", "memoserve.v1.QueryService", "memoserve.v1.ServerService"),
    *("grpc.health.v1.Health", "grpc.channelz.v1.Channelz"),
    *("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"),
}


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int((await health_pb2_grpc.HealthStub(channel).Check(request)).status)


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_follows_the_pipeline(
    channel: grpc.aio.Channel, pipeline: FakePipeline, service: str
) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=service)
    )
    seen = [(await watch.read()).status]
    for healthy in (False, True):
        pipeline.healthy = healthy
        seen.append((await watch.read()).status)
        assert await health_of(channel, service) == seen[-1]
    assert seen == [SERVING, NOT_SERVING, SERVING]
    watch.cancel()


async def test_a_server_that_is_still_loading_is_not_serving(pipeline: FakePipeline) -> None:
    pipeline.healthy = False
    server = build_server(pipeline, RpcOptions(health_period_s=60))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        assert await health_of(channel, "") == NOT_SERVING
        assert await health_of(channel, SERVICES[0]) == NOT_SERVING
    await server.stop()


async def test_health_knows_no_other_service(channel: grpc.aio.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service="memoserve.v1.Nonsense")
    error = await failure_of(health_pb2_grpc.HealthStub(channel).Check(request))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def reflect(channel: grpc.aio.Channel, version: str, **asked: str) -> Any:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (response,) = [
        one async for one in call(iter([reflection_pb2.ServerReflectionRequest(**asked)]))
    ]
    return response


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(channel: grpc.aio.Channel, version: str) -> None:
    listed = await reflect(channel, version, list_services="")
    assert {one.name for one in listed.list_services_response.service} == EVERY_SERVICE
    for service in SERVICES:
        found = await reflect(channel, version, file_containing_symbol=service)
        assert (
            service.rpartition(".")[2].encode()
            in (found.file_descriptor_response.file_descriptor_proto[0])
        )


async def test_channelz_counts_calls(channel: grpc.aio.Channel) -> None:
    stub = channelz_pb2_grpc.ChannelzStub(channel)
    started = []
    for _ in range(2):
        servers = (await stub.GetServers(channelz_pb2.GetServersRequest())).server
        newest = max(servers, key=lambda one: one.ref.server_id)
        started.append(newest.data.calls_started)
    assert started == [1, 2]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_an_open_address_needs_tls_or_a_word(host: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        RpcOptions(host=host)
    assert (caught.value.field, caught.value.reason) == ("host", "INSECURE_ADDRESS")
    assert RpcOptions(host=host, insecure=True).host == host
    assert RpcOptions(host=host, tls=TlsFiles(Path("c"), Path("k"))).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_neither(host: str) -> None:
    assert RpcOptions(host=host).host == host


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"port": -1}, "port"),
        ({"port": 65536}, "port"),
        ({"max_calls": 0}, "max_calls"),
        ({"keepalive_s": 0.0}, "keepalive_s"),
        ({"health_period_s": float("nan")}, "health_period_s"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        RpcOptions(**wrong)
    assert caught.value.field == field


async def test_an_open_address_that_was_allowed_is_served(pipeline: FakePipeline) -> None:
    server = build_server(pipeline, RpcOptions(host="0.0.0.0", insecure=True))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert (await server_stub(channel).GetServerInfo(INFO)).info.version == "1.2.3"
    await server.stop()


async def test_a_port_is_not_shared(server: RpcServer, pipeline: FakePipeline) -> None:
    assert server.port > 0
    assert server.address == f"127.0.0.1:{server.port}"
    with pytest.raises(FailedPrecondition) as caught:
        build_server(pipeline, RpcOptions(port=server.port))
    assert caught.value.subject == server.address


async def test_more_calls_than_allowed_are_told_when_to_come_back(
    channel: grpc.aio.Channel, pipeline: FakePipeline
) -> None:
    pipeline.events = (Token("x"),)
    pipeline.hang = True
    held = [query_stub(channel).Recall(RECALL) for _ in range(3)]
    for call in held:
        await call.read()
    error = await failure_of(query_stub(channel).Recall(RECALL))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = details_of(error)
    assert details["ErrorInfo"].reason == "TOO_MANY_CALLS"
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    assert await health_of(channel, "") == SERVING
    held[0].cancel()
    await pipeline.closed.wait()
    assert (await server_stub(channel).GetServerInfo(INFO)).info.version == "1.2.3"
    for call in held:
        call.cancel()


def make_certificate(folder: Path) -> TlsFiles:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    files = TlsFiles(folder / "cert.pem", folder / "key.pem")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    out = ["-keyout", str(files.key), "-out", str(files.certificate)]
    command = [openssl, "req", "-x509", *key, *name, *out]
    subprocess.run(command, check=True, capture_output=True)
    return files


async def test_tls(pipeline: FakePipeline, tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    server = build_server(pipeline, RpcOptions(tls=files))
    await server.start()
    trusted = grpc.ssl_channel_credentials(files.certificate.read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{server.port}", trusted) as channel:
        assert (await server_stub(channel).GetServerInfo(INFO)).info.version == "1.2.3"
    async with grpc.aio.insecure_channel(server.address) as channel:
        error = await failure_of(server_stub(channel).GetServerInfo(INFO, timeout=5))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop()


async def test_mutual_tls_turns_strangers_away(pipeline: FakePipeline, tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    mutual = TlsFiles(files.certificate, files.key, client_ca=files.certificate)
    server = build_server(pipeline, RpcOptions(tls=mutual))
    await server.start()
    root, key = files.certificate.read_bytes(), files.key.read_bytes()
    target = f"localhost:{server.port}"
    known = grpc.ssl_channel_credentials(root, key, root)
    async with grpc.aio.secure_channel(target, known) as channel:
        assert (await server_stub(channel).GetServerInfo(INFO)).info.version == "1.2.3"
    async with grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(root)) as channel:
        error = await failure_of(server_stub(channel).GetServerInfo(INFO, timeout=5))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop()


async def test_tls_files_are_named_when_they_are_wrong(
    pipeline: FakePipeline, tmp_path: Path
) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(b"no PEM")
    for files, field in (
        (TlsFiles(noise, tmp_path / "missing"), "tls.key"),
        (TlsFiles(noise, noise), "tls.key"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            build_server(pipeline, RpcOptions(tls=files))
        assert caught.value.field == field
