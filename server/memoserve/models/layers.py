"""The transformer that Qwen2, Mistral and Llama share, with beacon rows.

Parameter names are the published checkpoint's. Raw rows go through the ordinary projections,
beacon rows through their copies, each row through one of them only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memoserve.models.batch import ForwardBatch, RowSplit
from memoserve.models.config import ModelConfig
from memoserve_kernels import ops


class RmsNorm(nn.Module):
    """``weight * x / rms(x)``."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[N, size] -> [N, size]``."""
        return ops.rms_norm(x, self.weight, self.eps)

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """``s = residual + x``, both ``[N, size]``: its norm, and ``s``, in one pass.

        ``s`` is ``x`` where there is no residual yet.
        """
        if residual is None:
            return self(x), x
        return ops.add_rms_norm(x, residual, self.weight, self.eps)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, wide, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, wide, bias=bias)
        self.up_proj = nn.Linear(hidden, wide, bias=bias)
        self.down_proj = nn.Linear(wide, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, hidden] -> [N, hidden]``."""
        down: Tensor = self.down_proj(ops.silu_mul(self.gate_proj(x), self.up_proj(x)))
        return down


def project(x: Tensor, raw: nn.Linear, beacon: nn.Linear | None, split: RowSplit | None) -> Tensor:
    """Each row of ``x [N, in]`` through its own projection, no row through both."""
    if split is None or beacon is None:
        out: Tensor = raw(x)
        return out
    return torch.cat([raw(x[split.raw]), beacon(x[split.beacon])])[split.merge]


class Attention(nn.Module):
    """Grouped-query attention; ``beacon_X_proj`` exists for each X in ``beacon_param``."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        q_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        shapes = {
            "q": (config.hidden_size, q_size, config.qkv_bias),
            "k": (config.hidden_size, kv_size, config.qkv_bias),
            "v": (config.hidden_size, kv_size, config.qkv_bias),
            "o": (q_size, config.hidden_size, config.o_bias),
        }
        for name, (fan_in, fan_out, bias) in shapes.items():
            self.add_module(f"{name}_proj", nn.Linear(fan_in, fan_out, bias=bias))
            if name in config.beacon.param:
                self.add_module(f"beacon_{name}_proj", nn.Linear(fan_in, fan_out, bias=bias))

    def _project(self, name: str, x: Tensor, split: RowSplit | None) -> Tensor:
        raw = self._modules[f"{name}_proj"]
        beacon = self._modules.get(f"beacon_{name}_proj")
        if not isinstance(raw, nn.Linear) or not isinstance(beacon, nn.Linear | None):
            raise TypeError(f"{name}_proj is not a linear layer")
        return project(x, raw, beacon, split)

    def forward(self, x: Tensor, batch: ForwardBatch, rows: Tensor | None) -> Tensor:
        """Normed ``x [N, hidden]``; ``rows`` names those that ask, None all. ``[Q, hidden]``.

        Rows that do not ask give their K and V only. Named rows are raw rows.
        """
        split = batch.split
        asking, asking_split = (x, split) if rows is None else (x[rows], None)
        q = self._project("q", asking, asking_split).unflatten(-1, (-1, self.head_dim))
        k = self._project("k", x, split).unflatten(-1, (-1, self.head_dim))
        v = self._project("v", x, split).unflatten(-1, (-1, self.head_dim))
        mixed = batch.attend(self.layer, q, k, v).flatten(-2)
        return self._project("o", mixed, asking_split)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = Mlp(config)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, residual: Tensor | None, batch: ForwardBatch, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the layer adds, ``[Q, hidden]``, and what it is added to; only ``rows`` go on.

        ``residual + x`` goes in, ``x`` alone where there is no residual. Their sum is left to the
        norm behind it, which reads both anyway.
        """
        normed, residual = self.input_layernorm.after(x, residual)
        mixed = self.self_attn(normed, batch, rows)
        asking = residual if rows is None else residual[rows]
        normed, residual = self.post_attention_layernorm.after(mixed, asking)
        return self.mlp(normed), residual


def _unset_embedding(rows: int, size: int) -> nn.Embedding:
    """An embedding whose values come from a checkpoint; drawing them first costs seconds."""
    unset: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, size), freeze=False)
    return unset


class Decoder(nn.Module):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = _unset_embedding(config.vocab_size, config.hidden_size)
        # One row, reached by name: its reference id would lie one past the token table.
        self.beacon_embed_tokens = _unset_embedding(1, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer) for layer in range(config.num_layers)
        )
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, batch: ForwardBatch) -> Tensor:
        """``[N, hidden]``; beacon rows take the beacon embedding, whatever their id says."""
        if batch.split is None:
            raw: Tensor = self.embed_tokens(batch.ids)
            return raw
        split = batch.split
        raw = self.embed_tokens(batch.ids[split.raw])
        beacon = self.beacon_embed_tokens.weight.expand(split.beacon.shape[0], -1)
        return torch.cat([raw, beacon])[split.merge]

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Normed hidden states of ``batch.output_rows``, ``[Q, hidden]``."""
        x = self.embed(batch)
        residual: Tensor | None = None
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x, residual = layer(x, residual, batch, batch.output_rows if index == last else None)
        out, _ = self.norm.after(x, residual)
        return out


class BeaconLM(nn.Module):
    """A memory model: rows in, logits of the wanted rows out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Logits ``[Q, vocab]`` of ``batch.output_rows``; Q may be 0, then no head is run."""
        hidden: Tensor = self.model(batch)
        if hidden.shape[0] == 0:
            return hidden.new_empty(0, self.config.vocab_size)
        logits: Tensor = self.lm_head(hidden)
        return logits
