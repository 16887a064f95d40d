"""What every test stands on: offline, reproducible draws, GPU tests only where there is a GPU."""

from __future__ import annotations

import ipaddress
import os
import sys

import pytest
from hypothesis import HealthCheck, settings

from tests import interpreter

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Wall-clock deadlines would fail on a busy machine, not on a wrong answer.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile(
    "soak",
    settings.get_profile("default"),
    max_examples=2000,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(
    os.environ.get("MEMOSERVE_HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


def _refuse_network(event: str, args: tuple[object, ...]) -> None:
    """Audit hook: a Python socket that leaves this machine is a bug of the test."""
    if event != "socket.connect":
        return
    address = args[1]
    if not isinstance(address, tuple):  # a Unix socket's path
        return
    host = str(address[0])
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        raise RuntimeError(f"a test tried to reach {host}: tests need no network")


sys.addaudithook(_refuse_network)

interpreter.watch()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where PyTorch finds no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
