"""A real server process, and short ways to ask it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from memoserve.cli.ready import READY
from memoserve.config import EMBEDDED_MODEL
from memoserve_client import Client, Final, SamplingOptions, Task

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0
FEW = SamplingOptions(max_tokens=12)
METRICS = "metrics on "


def environment() -> dict[str, str]:
    """Finds the packages of this checkout, installed or not; one compute thread."""
    roots = [str(ROOT / part) for part in ("server", "kernels", "protos", "clients/python")]
    path = os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "memoserve.cli", *arguments]


def untrained(directory: Path) -> Path:
    """The model in the box with random weights: it writes as long as it may."""
    shutil.copytree(EMBEDDED_MODEL, directory)
    weights = directory / "model.safetensors"
    torch.manual_seed(1)
    random = {
        name: torch.ones_like(value)
        if name.endswith("norm.weight")
        else torch.randn(value.shape).to(value.dtype) * value.shape[-1] ** -0.5
        for name, value in load_file(weights).items()
    }
    save_file(random, weights)
    return directory


@dataclass
class Server:
    """A running server; ``metrics_url`` is its Prometheus endpoint."""

    data_dir: Path
    process: subprocess.Popen[str]
    address: str
    metrics_url: str

    def client(self) -> Client:
        return Client(self.address)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def metrics(self) -> dict[str, float]:
        """All samples by name and labels."""
        with urllib.request.urlopen(self.metrics_url, timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}


@contextmanager
def serving(data_dir: Path, *options: str) -> Iterator[Server]:
    """A server on a free loopback port, ended at the end whatever happens."""
    log = data_dir.with_suffix(".log")
    with log.open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command(
                *("serve", "--port", "0", "--metrics-port", "0", "--pool-mib", "128"),
                *("--data-dir", str(data_dir), *options),
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(),
        )
    try:
        assert process.stdout is not None
        lines = {}
        for line in process.stdout:
            for head in (METRICS, READY):
                if line.startswith(head):
                    lines[head] = line.removeprefix(head).strip()
            if READY in lines:
                break
        assert READY in lines, log.read_text(encoding="utf-8")
        yield Server(data_dir, process, lines[READY], lines[METRICS])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def answer(client: Client, memory: str, question: str = "Who built the bridge?") -> str:
    """The greedy answer of the memory alone."""
    with client.generate(memory, question, task=Task.MEMORY_ONLY, sampling=FEW) as events:
        last = list(events)[-1]
    assert isinstance(last, Final)
    return last.text


def eventually(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
