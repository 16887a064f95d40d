"""What is packaged, what it asks for, and that the pins and the front page agree with it."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "memoserve": "server/memoserve",
    "memoserve_kernels": "kernels/memoserve_kernels",
    "memoserve_proto": "protos/memoserve_proto",
    "memoserve_client": "clients/python/memoserve_client",
    "memoserve_training": "training/memoserve_training",
}
CLIENT_PACKAGES = ("memoserve_proto", "memoserve_client")
SERVER_PACKAGES = ("memoserve", "memoserve_kernels")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """A wheel, built from a copy so that the tree stays clean."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy / name)
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, copy / folder)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(copy / done.stdout.splitlines()[-1]) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """The METADATA that an installer reads."""
    (name,) = (entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def _requirements(metadata: Message, extra: str = "") -> list[Requirement]:
    """What is asked for without extras, or by one extra alone."""
    declared = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    if not extra:
        return [requirement for requirement in declared if requirement.marker is None]
    return [
        requirement
        for requirement in declared
        if requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
    ]


def _names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def _pins(file: str = "constraints.txt") -> dict[str, str]:
    """A file of constraints as {name: version}; any other form of line fails."""
    pins = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line)
        assert found is not None, f"not a plain pin: {line}"
        assert found[1] not in pins, f"pinned twice: {found[1]}"
        pins[found[1]] = found[2]
    return pins


def _third_party_imports(package: str) -> set[str]:
    """Top-level names that a package's source imports, without ours and the standard library."""
    found = set()
    for path in (ROOT / FOLDERS[package]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if _top(name) not in sys.stdlib_module_names | FOLDERS.keys()}


def _top(name: str) -> str:
    return name.partition(".")[0]


def _distributions(imported: str) -> set[str]:
    """Names of the distributions that provide an imported name."""
    if imported.startswith("google.protobuf"):
        return {"protobuf"}
    if imported.startswith("google.rpc"):
        return {"googleapis-common-protos"}
    if _top(imported) == "triton":  # installed where there is one for the machine
        return {"triton"}
    return {canonicalize_name(name) for name in _providers().get(_top(imported), [])}


@functools.cache
def _providers() -> Mapping[str, list[str]]:
    """Distributions by the top-level names they install; reads every installed RECORD."""
    return packages_distributions()


def test_bare_install_asks_for_the_grpc_family_alone(metadata: Message) -> None:
    assert _names(_requirements(metadata)) == {
        "grpcio",
        "grpcio-health-checking",
        "grpcio-status",
        "protobuf",
        "googleapis-common-protos",
    }


@pytest.mark.parametrize("package", FOLDERS)
def test_every_import_is_declared(package: str, metadata: Message) -> None:
    declared = _names(_requirements(metadata))
    if package in SERVER_PACKAGES:
        declared |= _names(_requirements(metadata, "server") + _requirements(metadata, "gpu"))
    if package == "memoserve_training":
        declared |= _names(_requirements(metadata, "train"))
    missing = {
        name for name in _third_party_imports(package) if not _distributions(name) & declared
    }
    assert missing == set()


def test_triton_is_asked_for_by_the_gpu_extra_alone(metadata: Message) -> None:
    assert "triton" in _names(_requirements(metadata, "gpu"))
    assert "triton" not in _names(_requirements(metadata)) | _names(
        _requirements(metadata, "server")
    )


def test_python_range(metadata: Message) -> None:
    allowed = SpecifierSet(metadata["Requires-Python"])
    minors = [minor for minor in range(9, 17) if allowed.contains(f"3.{minor}.1")]
    assert minors == [11, 12, 13]


def test_version_is_the_one_in_the_source(metadata: Message) -> None:
    source = (ROOT / "server/memoserve/__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{metadata["Version"]}"\n' in source


def test_wheel_holds_every_source_and_data_file(wheel: zipfile.ZipFile) -> None:
    expected = {
        f"{name}/{path.relative_to(ROOT / folder).as_posix()}"
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected


@pytest.mark.parametrize("package", FOLDERS)
def test_every_package_is_typed(package: str, wheel: zipfile.ZipFile) -> None:
    assert f"{package}/py.typed" in wheel.namelist()


def test_wheel_carries_licence_and_notice(wheel: zipfile.ZipFile) -> None:
    licences = {Path(name).name for name in wheel.namelist() if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


@pytest.mark.parametrize("extra", ["", "server", "train", "dev"])
def test_every_requirement_is_pinned_within_its_range(extra: str, metadata: Message) -> None:
    pins = _pins()
    wanted = _requirements(metadata, extra)
    assert wanted
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is asked for and not pinned"
        assert requirement.specifier.contains(pins[name]), f"{requirement} refuses {pins[name]}"


def test_triton_is_pinned_apart(metadata: Message) -> None:
    # A CUDA build of torch asks for one exact Triton: another pin could not be installed beside it.
    assert "triton" not in _pins()
    pins = _pins("constraints-kernels.txt")
    assert pins.keys() == {"triton"}
    (gpu,) = _requirements(metadata, "gpu")
    assert gpu.specifier.contains(pins["triton"])


def test_ranges_begin_where_the_stubs_begin_to_work(metadata: Message) -> None:
    specifiers = {str(r.name): str(r.specifier) for r in _requirements(metadata)}
    folder = ROOT / FOLDERS["memoserve_proto"] / "v1"
    services = (folder / "memory_service_pb2_grpc.py").read_text(encoding="utf-8")
    messages = (folder / "memory_service_pb2.py").read_text(encoding="utf-8")
    grpc_version = re.findall(r"^GRPC_GENERATED_VERSION = '(.+)'$", services, re.MULTILINE)
    assert f">={grpc_version[0]}" in specifiers["grpcio"].split(",")
    protobuf_version = re.findall(r"^# Protobuf Python Version: (.+)$", messages, re.MULTILINE)
    assert f">={protobuf_version[0]}" in specifiers["protobuf"].split(",")
