"""Shapes of a run: Qwen2-7B, and tiny ones with which the same code runs on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

K = 1024


@dataclass(frozen=True)
class Readers:
    """A decode step: ``readers`` rows, each behind ``memory`` beacons and an open window."""

    readers: int
    memory: int
    shared: bool = True

    @property
    def label(self) -> str:
        """As rows name it."""
        how = "one" if self.shared else "separate"
        return f"readers={self.readers} memory={self.memory} {how}"


@dataclass(frozen=True)
class Sizes:
    """All sizes of a run. ``memory_steps``: beacons behind which windows are read.

    ``long_tokens`` is the long text, ``resident_tokens`` the memory that is counted,
    ``reader_beacons`` the memory whose readers are timed.
    """

    heads: int = 28
    kv_heads: int = 4
    head_dim: int = 128
    layers: int = 28
    hidden: int = 3584
    intermediate: int = 18944
    vocab: int = 152064
    window: int = 2 * K
    page_size: int = 64
    ratios: tuple[int, ...] = (4, 8)
    memory_steps: tuple[int, ...] = (0, 2 * K, 8 * K, 32 * K, 256 * K)
    decode: tuple[Readers, ...] = (
        Readers(1, 0),
        Readers(1, 2 * K),
        Readers(1, 32 * K),
        Readers(1, 256 * K),
        Readers(4, 32 * K),
        Readers(16, 32 * K),
        Readers(16, 32 * K, shared=False),
        Readers(64, 0),
        Readers(64, 2 * K),
        Readers(64, 2 * K, shared=False),
        Readers(64, 32 * K),
        Readers(64, 32 * K, shared=False),
        Readers(64, 256 * K),
        Readers(256, 2 * K, shared=False),
        Readers(256, 32 * K),
        Readers(256, 256 * K),
    )
    rows: tuple[int, ...] = (1, 64, 2560)
    copy_bytes: int = 4 << 30
    product: int = 8 * K
    short_tokens: int = 32 * K
    long_tokens: int = 200_000
    resident_tokens: int = 128 * K
    reader_beacons: int = 32 * K
    readers: tuple[int, ...] = (1, 16, 64)
    query_tokens: int = 64
    new_tokens: int = 32
    full_kv_tokens: tuple[int, ...] = (8 * K, 32 * K, 128 * K, 200_000)
    peer_decode: tuple[Readers, ...] = (
        Readers(1, 32 * K),
        Readers(16, 32 * K),
        Readers(64, 32 * K),
        Readers(64, 8 * K, shared=False),
    )
    peer_memory: tuple[int, ...] = (0, 8 * K, 32 * K)

    @property
    def group(self) -> int:
        """Query heads of a kv head."""
        return self.heads // self.kv_heads

    def window_rows(self, ratio: int) -> int:
        """Rows of a whole window, raw and beacon."""
        return self.window + self.window // ratio

    @property
    def shape_name(self) -> str:
        """As rows name it."""
        return f"H{self.heads} K{self.kv_heads} D{self.head_dim} S{self.page_size}"

    def config(self) -> dict[str, Any]:
        """config.json of the memory model of this shape."""
        return {
            "model_type": "qwen2",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 512 * K,
            "rope_theta": 1000000.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "beacon_window": self.window,
            "beacon_stride": self.window,
            "beacon_ratio": list(self.ratios),
            "beacon_ratio_mix": "step-random",
            "beacon_param": ["q", "k", "v"],
            "beacon_pos": "interleave",
        }


FULL = Sizes()
DRY = replace(
    FULL,
    heads=4,
    kv_heads=2,
    head_dim=16,
    layers=2,
    hidden=64,
    intermediate=96,
    vocab=64,
    window=16,
    page_size=4,
    memory_steps=(8, 12),
    decode=(Readers(1, 0), Readers(3, 8), Readers(3, 8, shared=False)),
    rows=(1, 5),
    copy_bytes=1 << 12,
    product=16,
    short_tokens=40,
    long_tokens=70,
    resident_tokens=64,
    reader_beacons=8,
    readers=(1, 3),
    query_tokens=5,
    new_tokens=3,
    full_kv_tokens=(24,),
    peer_decode=(Readers(3, 8),),
    peer_memory=(8,),
)
