"""What the GPU suite calls by name and a test machine lacks: peers and the sanitizer, stood in."""

from __future__ import annotations

import os
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import peers, sanitizer
from benchmarks.gpu.rows import FAILED
from tests.gpu_bench import ROOT, make_bench, told

# -- peers -----------------------------------------------------------------------------------------


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """``[B, R, H, D]`` over ``[B, keys, K, D]``, causal to the last key."""
    group = q.shape[2] // k.shape[2]
    k, v = (part.repeat_interleave(group, dim=2).float() for part in (k, v))
    scores = torch.einsum("brhd,bkhd->bhrk", q.float(), k) * scale
    hidden = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).triu(k.shape[1] - q.shape[1] + 1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("bhrk,bkhd->brhd", weights, v).to(q.dtype)


class FakeWrapper:
    """FlashInfer's paged decode in torch, HND pages."""

    def __init__(self, _space: torch.Tensor, layout: str, **_: object) -> None:
        assert layout == "HND"

    def plan(
        self, ends: Any, pages: Any, last: Any, *sizes: int, sm_scale: float, **_: Any
    ) -> None:
        self.tables = [pages[a:b].tolist() for a, b in pairwise(ends)]
        self.last, self.size, self.scale = last.tolist(), sizes[3], sm_scale

    def run(self, q: torch.Tensor, kv: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        rows = []
        for row, table, last in zip(q, self.tables, self.last, strict=True):
            keys = (len(table) - 1) * self.size + last
            k, v = (part[table].transpose(1, 2).flatten(0, 1)[None, :keys] for part in kv)
            rows.append(_attend(row[None, None], k, v, self.scale)[0, 0])
        return torch.stack(rows)


def fake_peers(monkeypatch: pytest.MonkeyPatch, spoil: float = 1.0) -> None:
    flash = types.ModuleType("flash_attn")
    infer = types.ModuleType("flashinfer")

    def flash_attn_func(q: Any, k: Any, v: Any, softmax_scale: float, causal: bool) -> Any:
        assert causal
        return _attend(q, k, v, softmax_scale) * spoil

    def single_prefill(q: Any, k: Any, v: Any, causal: bool, sm_scale: float) -> Any:
        assert causal
        return _attend(q[None], k[None], v[None], sm_scale)[0]

    vars(flash)["flash_attn_func"] = flash_attn_func
    vars(infer)["single_prefill_with_kv_cache"] = single_prefill
    vars(infer)["BatchDecodeWithPagedKVCacheWrapper"] = FakeWrapper
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    monkeypatch.setitem(sys.modules, "flashinfer", infer)


def test_peers_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins with the signatures of flash-attn and FlashInfer are called as those would be."""
    fake_peers(monkeypatch)
    names = ("flash-attn", "flashinfer")
    named = {name: peers.PEERS[name] for name in names}
    bench = make_bench(tmp_path)
    peers.decode(bench, named)
    peers.window(bench, named)
    rows = told(bench)
    assert not [row for row in rows if row["value"] in (FAILED, "not available")]
    for name in names:
        for op in ("paged_decode", "window_attention"):
            shapes = [row["shape"] for row in rows if row["op"] == op]
            assert any(shape.endswith(name) for shape in shapes)
            assert any(shape.endswith(f"{name} / ours") for shape in shapes)


def test_a_peer_that_computes_something_else_gets_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_peers(monkeypatch, spoil=1.1)
    bench = make_bench(tmp_path)
    peers.window(bench, {"flash-attn": peers.flash_attn})
    values = {row["value"] for row in told(bench) if row["shape"].endswith("flash-attn")}
    assert values == {FAILED}


# -- sanitizer -------------------------------------------------------------------------------------

REPORT = """\
========= COMPUTE-SANITIZER
@@ window_attention
small kernels window_attention ... pass
@@ paged_decode
========= Invalid __global__ read of size 16 bytes
=========     at decode_kernel+0x1230
=========     by thread (0,0,0) in block (3,0,0)
========= Error: Race reported between Write access and Read access
@@ end
========= ERROR SUMMARY: 2 errors
"""


def test_findings_by_kernel() -> None:
    found = sanitizer.findings(REPORT)
    assert {name: len(lines) for name, lines in found.items()} == {
        "window_attention": 0,
        "paged_decode": 2,
        "end": 0,
    }
    assert sanitizer.summary(REPORT) == 2
    assert sanitizer.summary("killed") is None
    assert sanitizer.summary("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors)") == 0


STAND_IN = """\
#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift 2; done
"$@"
echo "========= ERROR SUMMARY: 0 errors"
"""


def test_the_tool_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in on the PATH that runs the command after its own options, and reports."""
    tool = tmp_path / sanitizer.TOOL
    tool.write_text(STAND_IN)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    roots = [str(ROOT / part) for part in ("server", "kernels", "protos", ".")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(roots))
    bench = make_bench(tmp_path, seconds=60.0)
    sanitizer.run_tool(bench, "memcheck")
    rows = {row["shape"]: row for row in told(bench)}
    assert rows["all"]["value"] == "0" and rows["all"]["note"].startswith("pass")
    assert {"window_attention", "paged_decode", "evict_window"} <= rows.keys()
    assert all(row["note"].startswith("pass") for row in rows.values())
