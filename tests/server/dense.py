"""The beacon rules once more, dense and slow, in float64: what the paged engine must equal.

Written from the rules alone. Keys are kept un-rotated and rotated at every read with their index
of the moment; every forward has one explicit mask; nothing is shared with ``memory.window``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Cache = list[tuple[Tensor, Tensor]]  # a layer's un-rotated keys and values, [rows, heads, dim]


@dataclass
class DenseModel:
    """A memory model over its published tensors; feed tokens, get logits of every one."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    ratios: Sequence[int]
    frequencies: Tensor
    rope_factor: float = 1.0
    sink: Cache = field(default_factory=list)
    beacons: Cache = field(default_factory=list)
    window: Cache = field(default_factory=list)
    flags: list[bool] = field(default_factory=list)
    raw_in_window: int = 0
    windows: int = 0
    since_beacon: int = 0

    def __post_init__(self) -> None:
        heads = self.config["num_key_value_heads"]
        dim = self.config["hidden_size"] // self.config["num_attention_heads"]
        empty = torch.zeros(0, heads, dim, dtype=torch.float64)
        layers = self.config["num_hidden_layers"]
        for name in ("sink", "beacons", "window"):
            setattr(self, name, [(empty, empty) for _ in range(layers)])

    @property
    def append(self) -> bool:
        return bool(self.config["beacon_pos"] == "append")

    def memory(self, layer: int) -> tuple[Tensor, Tensor]:
        """All rows now held, sink first, the open window last."""
        parts = (self.sink[layer], self.beacons[layer], self.window[layer])
        return torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts])

    def feed(self, tokens: Sequence[int]) -> Tensor:
        """Logits ``[len(tokens), vocab]``; windows close on the way."""
        logits, size = [], self.config["beacon_window"]
        while tokens:
            piece, tokens = tokens[: size - self.raw_in_window], tokens[size - self.raw_in_window :]
            logits.append(self._forward(piece))
            if self.raw_in_window == size:
                self._close()
        return torch.cat(logits)

    # -- which rows, where, seeing what ----------------------------------------------------------

    def _rows(self, piece: Sequence[int]) -> list[int | None]:
        """Token ids in order; None is a beacon."""
        ratio = self.ratios[self.windows % len(self.ratios)]
        rows: list[int | None] = []
        for token in piece:
            rows.append(token)
            self.raw_in_window += 1
            if ratio and not self.append:
                self.since_beacon += 1
                if self.since_beacon == ratio:
                    rows.append(None)
                    self.since_beacon = 0
        if ratio and self.append and self.raw_in_window == self.config["beacon_window"]:
            rows += [None] * (self.config["beacon_window"] // ratio)
        return rows

    def _step_expansion(
        self, rows: list[int | None], past: int, held: int
    ) -> tuple[Tensor, Tensor]:
        """Positions of the new rows and the mask, beacon by beacon."""
        total = past + held + len(rows)
        ratio = self.ratios[self.windows % len(self.ratios)]
        seen = torch.zeros(len(rows), total, dtype=torch.bool)
        positions, beacon, first_beacon = [], 0, total
        for row, token in enumerate(rows):
            here = past + held + row
            if token is not None:
                positions.append(here)
                seen[row, : here + 1] = True
                continue
            first_beacon = min(first_beacon, here)
            before = beacon if self.config["beacon_attend_prev"] else 0
            positions.append(past + (beacon + 1) * ratio + before)
            seen[row, : past + (beacon + 1) * ratio] = True
            seen[row, here - before : here + 1] = True
            beacon += 1
        return torch.tensor(positions), seen

    def _places(self, rows: list[int | None], past: int, held: int) -> tuple[Tensor, Tensor]:
        if self.config["beacon_attn"] == "step-expansion":
            return self._step_expansion(rows, past, held)
        total = past + held + len(rows)
        positions = torch.arange(past + held, total)
        return positions, torch.arange(total) <= positions[:, None]

    # -- the transformer ------------------------------------------------------------------------

    def _forward(self, piece: Sequence[int]) -> Tensor:
        past = self.sink[0][0].shape[0] + self.beacons[0][0].shape[0]
        held = len(self.flags)
        rows = self._rows(piece)
        new_positions, seen = self._places(rows, past, held)
        positions = torch.cat([torch.arange(past + held), new_positions])
        is_beacon = torch.tensor([token is None for token in rows])
        x = torch.stack([self._embed(token) for token in rows])
        for layer in range(self.config["num_hidden_layers"]):
            x = self._layer(layer, x, is_beacon, positions, seen)
        self.flags += is_beacon.tolist()
        x = self._norm(x, "model.norm.weight")[~is_beacon]
        tied = "lm_head.weight" not in self.tensors
        head = self.tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
        return x @ head.T

    def _embed(self, token: int | None) -> Tensor:
        if token is None:
            return self.tensors["model.beacon_embed_tokens.weight"][0]
        return self.tensors["model.embed_tokens.weight"][token]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]).sqrt()
        normed: Tensor = self.tensors[name] * x / scale
        return normed

    def _linear(self, x: Tensor, name: str) -> Tensor:
        out = x @ self.tensors[f"{name}.weight"].T
        bias = self.tensors.get(f"{name}.bias")
        return out if bias is None else out + bias

    def _project(self, x: Tensor, layer: int, which: str, is_beacon: Tensor) -> Tensor:
        prefix = f"model.layers.{layer}.self_attn."
        out = self._linear(x, f"{prefix}{which}_proj")
        if which not in self.config["beacon_param"]:
            return out
        own = self._linear(x, f"{prefix}beacon_{which}_proj")
        return torch.where(is_beacon[:, None], own, out)

    def _layer(
        self, layer: int, x: Tensor, is_beacon: Tensor, positions: Tensor, seen: Tensor
    ) -> Tensor:
        name = f"model.layers.{layer}"
        normed = self._norm(x, f"{name}.input_layernorm.weight")
        dim = self.config["hidden_size"] // self.config["num_attention_heads"]
        q, k, v = (
            self._project(normed, layer, w, is_beacon).unflatten(-1, (-1, dim)) for w in "qkv"
        )
        window_k, window_v = self.window[layer]
        self.window[layer] = (torch.cat([window_k, k]), torch.cat([window_v, v]))
        keys, values = self.memory(layer)
        q = self._rotate(q, positions[-len(q) :])
        keys = self._rotate(keys, positions)
        group = q.shape[1] // keys.shape[1]
        out = torch.empty_like(q)
        for head in range(q.shape[1]):
            scores = q[:, head] @ keys[:, head // group].T / math.sqrt(dim)
            weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
            out[:, head] = weights @ values[:, head // group]
        x = x + self._project(out.flatten(1), layer, "o", is_beacon)
        normed = self._norm(x, f"{name}.post_attention_layernorm.weight")
        gate = self._linear(normed, f"{name}.mlp.gate_proj")
        up = self._linear(normed, f"{name}.mlp.up_proj")
        return x + self._linear(gate * gate.sigmoid() * up, f"{name}.mlp.down_proj")

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angles = positions[:, None] * self.frequencies
        turn = torch.polar(torch.full_like(angles, self.rope_factor), angles)
        pairs = torch.complex(x[..., :half], x[..., half:]) * turn[:, None]
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    # -- closing --------------------------------------------------------------------------------

    def _close(self) -> None:
        """Only beacons survive (all rows at ratio 0), and the first rows of all as the sink."""
        ratio = self.ratios[self.windows % len(self.ratios)]
        keep = torch.tensor(self.flags) if ratio else torch.ones(len(self.flags), dtype=torch.bool)
        for layer, (k, v) in enumerate(self.window):
            if self.windows == 0:
                size = self.config["beacon_sink_size"]
                self.sink[layer] = (k[:size], v[:size])
            old_k, old_v = self.beacons[layer]
            self.beacons[layer] = (torch.cat([old_k, k[keep]]), torch.cat([old_v, v[keep]]))
            self.window[layer] = (k[:0], v[:0])
        self.flags = []
        self.raw_in_window = 0
        self.windows += 1
