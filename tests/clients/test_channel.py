"""Where plaintext is allowed, and what the channel is told."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from memoserve_client._channel import endpoint, is_loopback, service_config
from memoserve_proto.v1 import memory_service_pb2, query_service_pb2, server_service_pb2
from tests.clients.caller import Caller
from tests.clients.fake_server import FakeServer

LOOPBACK = [
    "127.0.0.1:50051",
    "127.8.9.1:1",
    "localhost:50051",
    "LocalHost",
    "[::1]:50051",
    "::1",
    "dns:///localhost:50051",
    "dns://8.8.8.8/localhost:50051",
    "ipv4:127.0.0.1:1,127.0.0.2:1",
    "ipv6:[::1]:50051",
    "unix:/tmp/socket",
    "unix:///tmp/socket",
    "unix-abstract:name",
]
REMOTE = [
    "10.0.0.1:50051",
    "0.0.0.0:50051",
    "example.org:50051",
    "localhost.example.org:50051",
    "127.0.0.1.example.org:50051",
    "[2001:db8::1]:50051",
    "dns:///example.org:50051",
    "dns://127.0.0.1/example.org",
    "ipv4:127.0.0.1:1,10.0.0.1:1",
    "xds:///localhost",
    "",
]


@pytest.mark.parametrize("target", LOOPBACK)
def test_this_machine_is_spoken_to_in_plaintext(target: str) -> None:
    assert is_loopback(target)
    assert endpoint(target).credentials is None


@pytest.mark.parametrize("target", REMOTE)
def test_other_machines_are_spoken_to_by_tls(target: str) -> None:
    assert not is_loopback(target)
    assert endpoint(target).credentials is not None
    assert endpoint(target, insecure=True).credentials is None


def test_certificates_ask_for_tls_everywhere() -> None:
    assert endpoint("127.0.0.1:1", root_certificates=b"x").credentials is not None
    with pytest.raises(ValueError, match="exclude each other"):
        endpoint("127.0.0.1:1", root_certificates=b"x", insecure=True)


def test_a_callers_options_go_first() -> None:
    options = dict(endpoint("127.0.0.1:1", channel_options=[("grpc.keepalive_time_ms", 5)]).options)
    assert options["grpc.keepalive_time_ms"] == 5
    assert options["grpc.max_receive_message_length"] == 16 * 1024 * 1024
    assert json.loads(str(options["grpc.service_config"])) == service_config()


def test_retries_name_methods_of_the_contract_that_change_nothing() -> None:
    services = {
        service.full_name: service.methods_by_name
        for module in (memory_service_pb2, query_service_pb2, server_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    (config,) = json.loads(json.dumps(service_config()))["methodConfig"]
    for name in config["name"]:
        assert name["method"] in services[name["service"]]
        assert name["method"].startswith(("Get", "List"))
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A fresh self-signed certificate for localhost and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder: Path = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return (folder / "certificate.pem").read_bytes(), (folder / "key.pem").read_bytes()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_tls_with_the_servers_root(kind: str, certificate: tuple[bytes, bytes]) -> None:
    pem, key = certificate
    server = FakeServer(grpc.ssl_server_credentials([(key, pem)]))
    try:
        async with Caller(kind, server.target, root_certificates=pem) as caller:
            assert (await caller.call("info")).pages_free == 7
    finally:
        server.close()
