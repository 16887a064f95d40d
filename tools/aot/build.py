"""Compiles one case: Triton to PTX to machine code, and its disassembly. Imports Triton."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from memoserve_kernels.aot import AotCase
from tools.aot.figures import Figures

TRITON_VERSION: Final[str] = triton.__version__
_DISASSEMBLER: Final = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
# A cached result was read by these files.
_READERS: Final = ("build.py", "figures.py")


@dataclass(frozen=True)
class Job:
    """One case on one architecture, named so that another process finds it."""

    module: str
    name: str
    arch: int

    def case(self) -> AotCase:
        """The case itself; KeyError if the module has none of that name."""
        return {case.name: case for case in cases_of(self.module, self.arch)}[self.name]


def modules_with_cases() -> list[str]:
    """Modules of memoserve_kernels that have an ``aot_cases``, by name."""
    package = importlib.import_module("memoserve_kernels")
    names = sorted(
        f"memoserve_kernels.{info.name}"
        for info in pkgutil.iter_modules(package.__path__)
        if info.name.startswith("triton_")
    )
    return [name for name in names if hasattr(importlib.import_module(name), "aot_cases")]


def cases_of(module: str, arch: int) -> list[AotCase]:
    """Every configuration of a module's kernels on ``sm_<arch>``."""
    cases: list[AotCase] = importlib.import_module(module).aot_cases(arch)
    return cases


def collect(modules: Sequence[str], arches: Sequence[int]) -> Iterator[tuple[Job, AotCase]]:
    """All cases; raises ValueError for a name used twice and for a case that fits no kernel."""
    for arch in arches:
        names: set[str] = set()
        for module in modules:
            for case in cases_of(module, arch):
                if case.name in names:
                    raise ValueError(f"two cases of sm_{arch} are named {case.name}")
                names.add(case.name)
                _check(case)
                yield Job(module, case.name, arch), case


def _check(case: AotCase) -> None:
    """A misspelt argument would otherwise be compiled as if nothing were said about it."""
    arguments = set(case.kernel.arg_names)
    constants = {name for name, type_ in case.signature.items() if type_ == "constexpr"}
    if set(case.signature) != arguments:
        raise ValueError(
            f"{case.name}: signature and kernel differ in {sorted(set(case.signature) ^ arguments)}"
        )
    if set(case.constexprs) != constants:
        raise ValueError(
            f"{case.name}: constexprs and signature differ in "
            f"{sorted(set(case.constexprs) ^ constants)}"
        )
    if stray := set(case.aligned) - (arguments - constants):
        raise ValueError(f"{case.name}: aligned names {sorted(stray)}, no run-time arguments")


def fingerprint(case: AotCase, arch: int) -> str:
    """Hash of all that the machine code depends on: source, types, options, compiler, reader."""
    here = Path(__file__).parent
    parts = [
        case.kernel.cache_key,  # its source, that of all it calls, and the globals they read
        sorted(case.signature.items()),
        sorted((name, _constant(value)) for name, value in case.constexprs.items()),
        sorted(case.aligned),
        (case.num_warps, case.num_stages, arch, TRITON_VERSION),
        [hashlib.sha256((here / name).read_bytes()).hexdigest() for name in _READERS],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _constant(value: Any) -> str:
    """A constant in words that are the same in every process; a jitted function by its source."""
    return getattr(value, "cache_key", None) or repr(value)


def build(job: Job, scratch: Path, texts: Path | None) -> tuple[str, Figures]:
    """Compile a job: its fingerprint as compiled, for a source may just have been saved, and its
    figures. PTX and SASS are left in ``texts`` where it is given.

    Raises what Triton raises; RuntimeError where the disassembler fails.
    """
    case = job.case()
    identity = fingerprint(case, job.arch)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        compiled = compile_case(case, job.arch)
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        sass, usage = disassemble("-sass", binary), disassemble("-res-usage", binary)
    ptx: str = compiled.asm["ptx"]
    if texts is not None:
        stem = texts / f"{job.name}.sm_{job.arch}"
        stem.with_name(f"{stem.name}.ptx").write_text(ptx, encoding="utf-8")
        stem.with_name(f"{stem.name}.sass").write_text(sass, encoding="utf-8")
    columns = getattr(compiled.metadata, "tmem_size", 0)
    return identity, Figures.read(ptx, sass, usage, compiled.metadata.shared, columns)


def compile_case(case: AotCase, arch: int) -> Any:
    """As the just-in-time compiler does it, for a chip that need not be there."""
    signature = {name: case.signature[name] for name in case.kernel.arg_names}
    place = {name: index for index, name in enumerate(signature)}
    aligned = {(place[name],): [["tt.divisibility", 16]] for name in case.aligned}
    source = ASTSource(case.kernel, signature, dict(case.constexprs), aligned)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def disassemble(what: str, binary: Path) -> str:
    """Output of the ``cuobjdump`` inside Triton's wheel."""
    done = subprocess.run(
        [_DISASSEMBLER, what, binary], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"cuobjdump {what}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Cache:
    """Results by fingerprint, one small file each."""

    folder: Path

    def get(self, fingerprint: str) -> Figures | None:
        """What was read from this machine code before; None also for a file cut short."""
        try:
            fields: Mapping[str, Any] = json.loads(self._path(fingerprint).read_text("utf-8"))
            return Figures(**{**fields, "seen": frozenset(fields["seen"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, fingerprint: str, figures: Figures) -> None:
        """Keep a result; a reader sees all of it or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**asdict(figures), "seen": sorted(figures.seen)})
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            file.write(text)
        Path(file.name).replace(self._path(fingerprint))

    def _path(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}.json"
