"""One forward of many sequences: plans to tensors, the paged ``attend``, window eviction."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from memoserve.engine.device import Device
from memoserve.engine.graph_memory import rooms, rooms_that_fit
from memoserve.engine.graphs import DecodeGraphs
from memoserve.engine.placed import Chunk
from memoserve.engine.step import Step, take_step
from memoserve.engine.uploads import Uploads
from memoserve.errors import OutOfRange
from memoserve.memory import window as win
from memoserve.memory.kv_cache import KVCache
from memoserve.memory.memory import PagedState
from memoserve.memory.page_table import Ints
from memoserve.memory.window import WindowRules
from memoserve.models.batch import ForwardBatch, RowSplit
from memoserve.models.layers import BeaconLM
from memoserve.models.rope import Rope
from memoserve_kernels import ops
from memoserve_kernels.layout import AttentionLayout, Rotation, SequenceLayout


class PagedAttend:
    """Attention over the page pool; the model's only way to keys and values.

    ``output`` is the rotation and the layout of the rows that ask in the last layer, None where
    all rows do.
    """

    def __init__(
        self,
        cache: KVCache,
        rotation: Rotation,
        layout: AttentionLayout,
        slots: Tensor,
        output: tuple[Rotation, AttentionLayout] | None,
    ) -> None:
        self.cache = cache
        self.rotation = rotation
        self.layout = layout
        self.slots = slots
        self.output = output
        self.last_layer = cache.shape.layers - 1
        self.scale = 1.0 / math.sqrt(cache.shape.head_dim)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v, attend with q; see ``models.batch.Attend``."""
        kv, memory = self.cache.layer(layer), self.cache.memory_layer(layer)
        if layer < self.last_layer or self.output is None:
            turned = ops.rope_and_append(q, k, v, self.rotation, kv, self.slots)
            return ops.attention(turned, kv, self.layout, self.scale, memory=memory)
        rotation, layout = self.output
        ops.append(k, v, self.rotation, kv, self.slots)
        turned = ops.rotate(q, rotation)
        return ops.attention(turned, kv, layout, self.scale, memory=memory)


class ModelRunner:
    """Runs chunks through the model. It takes pages; a failed forward gives them back.

    Graphs, where the device's options have them, keep at most ``graph_budget`` bytes; None is no
    limit.
    """

    def __init__(
        self,
        model: BeaconLM,
        rope: Rope,
        rules: WindowRules,
        cache: KVCache,
        device: Device,
        graph_budget: int | None = None,
    ) -> None:
        self.model = model
        self.rules = rules
        self.cache = cache
        self.rope = rope
        self.device = device
        self.uploads = Uploads(self.device)
        self.inv_freq = rope.frequencies(cache.shape.dtype).to(self.device.where)
        self.graphs = self._captured(graph_budget) if device.options.graphs else None

    @torch.inference_mode()
    def _captured(self, budget: int | None) -> DecodeGraphs:
        captured, config = rooms(self.rules), self.model.config
        if budget is not None:
            captured = rooms_that_fit(captured, config, self.cache, self.device, budget)
        return DecodeGraphs(self.model, self.cache, self.rotation, self.uploads, captured)

    def pages_needed(self, paged: PagedState, tokens: int) -> int:
        """Pages that a chunk of this many tokens takes."""
        state, ratio = paged.state, paged.schedule.at(paged.state.windows_closed)
        after = win.columns(self.rules, ratio, state.open_counter, state.open_tokens + tokens)
        closes = tokens == win.room(self.rules, state)
        kept = win.kept_rows(self.rules, paged.schedule, state) if closes else 0
        rows = after - paged.window.length
        return paged.window.pages_to_extend(rows) + paged.memory.pages_to_extend(kept)

    def check_positions(self, paged: PagedState, tokens: int) -> None:
        """Raise OutOfRange where a chunk would pass a length beyond which angles are wrong."""
        limit = self.rope.hard_limit
        if limit is None:
            return
        rows = win.rows_after(self.rules, paged.schedule, paged.state, tokens)
        length = paged.memory.length + rows
        if length > limit:
            raise OutOfRange(
                f"position {length} is beyond {limit}, where this model's "
                "dynamic rope would change the angles of all keys already stored",
                limit=limit,
            )

    @torch.inference_mode()
    def run(self, chunks: Items[Chunk]) -> list[Tensor]:
        """Feed the chunks; logits ``[wanted rows, vocab]`` of each. All or nothing happens."""
        marks = [(c.paged.memory.length, c.paged.window.length) for c in chunks]
        try:
            step = take_step(self.rules, self.cache, chunks)
            logits = self._forward(step)
        except BaseException:
            for chunk, (memory, window) in zip(chunks, marks, strict=True):
                chunk.paged.memory.truncate(memory)
                chunk.paged.window.truncate(window)
            raise
        for group in step.groups:
            for chunk, after in zip(group.chunks, group.after, strict=True):
                if after.windows_closed != chunk.paged.state.windows_closed:
                    chunk.paged.window.release()
                chunk.paged.state = after
        counts = step.counts
        parts = dict(zip(counts, logits.split(list(counts.values())), strict=True))
        return [parts[id(chunk)] for chunk in chunks]

    def _forward(self, step: Step) -> Tensor:
        """Logits of the wanted rows; waits for no result (uploads wait unless they are pinned)."""
        self._check_ids(step.integers["ids"])
        replayed = self.graphs.run(step) if self.graphs is not None else None
        if replayed is not None:
            return replayed
        sent = self.uploads.upload_packed(step.integers)
        logits: Tensor = self.model(self._batch(step, sent))
        if "sources" in sent:
            self._evict(sent)
        return logits

    def _check_ids(self, ids: Ints) -> None:
        """An id outside the table would end more than its own sequence on a GPU."""
        if ids.min() < 0 or ids.max() >= self.model.config.vocab_size:
            raise ValueError("a token id is outside the vocabulary")

    def _batch(self, step: Step, sent: dict[str, Tensor]) -> ForwardBatch:
        split = RowSplit(sent["raw"], sent["beacon"], sent["merge"]) if "raw" in sent else None
        output = None
        if "output_rows" in sent:
            layout = self._layout(step.asking, sent, "output_")
            output = self.rotation(sent["output_positions"]), layout
        rotation, layout = self.rotation(sent["positions"]), self._layout(step.layouts, sent)
        attend = PagedAttend(self.cache, rotation, layout, sent["slots"], output)
        return ForwardBatch(sent["ids"], split, sent.get("output_rows"), attend)

    def rotation(self, positions: Tensor) -> Rotation:
        """Angles of rows that are stored now."""
        return Rotation(positions, self.inv_freq, self.rope.factor)

    def _layout(
        self, sequences: tuple[SequenceLayout, ...], sent: dict[str, Tensor], which: str = ""
    ) -> AttentionLayout:
        columns, limits, starts = (sent[which + name] for name in ("columns", "limits", "starts"))
        return AttentionLayout(sequences, columns, limits, starts, self.uploads.upload)

    def _evict(self, sent: dict[str, Tensor]) -> None:
        """The KV eviction: surviving rows of all closing windows move to their memory slots."""
        # The attention factor was applied when the key was first written.
        turn = Rotation(sent["deltas"], self.inv_freq, 1.0)
        sources, targets = sent["sources"], sent["targets"]
        ops.evict_window(self.cache.data, sources, targets, turn, memory=self.cache.memory)
