"""The engine against transformers' own model, same weights, same process, in turns.

A Qwen2 shape of 107 M random parameters (12 layers, width 768, 12 query and 2 kv heads, window
2,048, ratio 4). Measured: tokens/s of taking in a text, ms from a 64-token query to its first
token, tokens/s of decoding behind it. The peer keeps the full KV: it does less per token while
reading and reads four times the keys while decoding. One row a figure, on standard output and,
with --out, in a CSV file.

    python benchmarks/engine/bench_memory_model.py [--tokens 8192] [--dtype float32] [--rounds 3]
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from memoserve.engine.build import EngineOptions, build_engine
from memoserve.engine.engine import Engine
from memoserve.engine.sampler import SamplingParams
from memoserve.engine.sequence import Done, Event, MemoryHandle, SequenceRequest, TokenOut
from memoserve.memory.window import RatioSchedule
from memoserve.metrics import Metrics
from memoserve.models.config import parse_config
from memoserve.models.loader import DTYPES, LoadedModel, build_model
from memoserve.models.rope import read_rope

SHAPE = {
    "model_type": "qwen2",
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BEACON = {
    "beacon_window": 2048,
    "beacon_stride": 2048,
    "beacon_ratio": [4],
    "beacon_param": ["q", "k", "v"],
    "beacon_pos": "interleave",
}
QUERY_TOKENS, NEW_TOKENS = 64, 64
SAMPLING = SamplingParams(max_tokens=NEW_TOKENS)


class Ours:
    """The engine, stepped by hand."""

    name = "memoserve"

    def __init__(self, peer: transformers.PreTrainedModel) -> None:
        config = parse_config({**SHAPE, **BEACON})
        state = {k: v.clone() for k, v in peer.state_dict().items()}
        model = build_model(config, state)
        rope = read_rope(config.raw, config.head_dim, config.max_positions)
        loaded = LoadedModel("bench", model, rope, "", {}, frozenset(), "")
        self.engine: Engine = build_engine(loaded, EngineOptions(pool_bytes=1 << 29), Metrics())
        self.memory: MemoryHandle | None = None

    def _run(self, request: Callable[[Callable[[Event], None]], SequenceRequest]) -> list[float]:
        times: list[float] = []

        def note(event: Event) -> None:
            if isinstance(event, TokenOut):
                times.append(time.perf_counter())
            if isinstance(event, Done) and event.memory is not None:
                self.memory = event.memory

        self.engine.submit(request(note))
        while self.engine.busy:
            self.engine.step()
        return times

    def read(self, ids: list[int]) -> None:
        """Memorize."""
        if self.memory is not None:
            self.engine.release(self.memory)
        self._run(lambda tell: SequenceRequest(tell, RatioSchedule((4,)), tokens=tuple(ids)))

    def answer(self, ids: list[int]) -> list[float]:
        """Times of the drawn tokens."""
        return self._run(
            lambda tell: SequenceRequest(
                tell, RatioSchedule((4,)), base=self.memory, tokens=tuple(ids), sampling=SAMPLING
            )
        )


class Peer:
    """transformers with its own cache of the full KV."""

    name = "transformers"

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        self.model = model
        self.cache = transformers.DynamicCache()

    @torch.inference_mode()
    def read(self, ids: list[int]) -> None:
        """Prefill in pieces of a window, without logits but of the last token."""
        self.cache = transformers.DynamicCache()
        for start in range(0, len(ids), 2048):
            piece = torch.tensor([ids[start : start + 2048]])
            self.model(piece, past_key_values=self.cache, logits_to_keep=1)

    @torch.inference_mode()
    def answer(self, ids: list[int]) -> list[float]:
        """Times of the drawn tokens."""
        times: list[float] = []
        piece = torch.tensor([ids])
        for _ in range(NEW_TOKENS):
            logits = self.model(piece, past_key_values=self.cache, logits_to_keep=1).logits
            piece = logits[:, -1:].argmax(-1)
            times.append(time.perf_counter())
        self.cache.crop(-(QUERY_TOKENS + NEW_TOKENS - 1))
        return times


def measure(side: Ours | Peer, text: list[int], query: list[int]) -> dict[str, float]:
    """One round of one side."""
    began = time.perf_counter()
    side.read(text)
    read = time.perf_counter() - began
    began = time.perf_counter()
    times = side.answer(query)
    return {
        "read_tokens_per_s": len(text) / read,
        "first_token_ms": (times[0] - began) * 1e3,
        "decode_tokens_per_s": (len(times) - 1) / (times[-1] - times[0]),
    }


def commit() -> str:
    """Short hash of the checkout, empty outside one."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def random_model(dtype: torch.dtype) -> transformers.PreTrainedModel:
    """The peer's own class with random weights, which both sides take."""
    model: Any = transformers.Qwen2ForCausalLM(transformers.Qwen2Config.from_dict(SHAPE))
    taken: transformers.PreTrainedModel = model.to(dtype).eval()
    return taken


def main() -> None:
    """Run the rounds in turns and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dtype = DTYPES[arguments.dtype]
    peer = random_model(dtype)
    sides = (Ours(peer), Peer(peer))
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(3, 32000, (arguments.tokens,), generator=generator).tolist()
    query = torch.randint(3, 32000, (QUERY_TOKENS,), generator=generator).tolist()
    for side in sides:  # warm-up
        side.read(text[:2048])
        side.answer(query)
    rounds = [{s.name: measure(s, text, query) for s in sides} for _ in range(arguments.rounds)]
    write_rows(rounds, arguments)


def write_rows(rounds: list[dict[str, dict[str, float]]], arguments: argparse.Namespace) -> None:
    """One row a side and figure: median, extremes, and the median of the paired ratios."""
    place = {
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "shape": f"qwen2-107M {arguments.dtype} tokens={arguments.tokens} window=2048 ratio=4",
    }
    rows = []
    for figure in rounds[0]["memoserve"]:
        ratio = statistics.median(
            r["memoserve"][figure] / r["transformers"][figure] for r in rounds
        )
        for side in rounds[0]:
            values = [r[side][figure] for r in rounds]
            rows.append(
                {
                    **place,
                    "side": side,
                    "figure": figure,
                    "median": f"{statistics.median(values):.4g}",
                    "min": f"{min(values):.4g}",
                    "max": f"{max(values):.4g}",
                    "ours_over_peer": f"{ratio:.3f}",
                }
            )
    for target in (sys.stdout, arguments.out.open("a", newline="") if arguments.out else None):
        if target is not None:
            writer = csv.DictWriter(target, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
