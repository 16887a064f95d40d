"""From a finished compression to a version on disk: new runs, a new window, one manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from memoserve.memory.memory import HostState
from memoserve.memory.snapshot import PartRef, VersionRecord
from memoserve.memory.staging import Staging, Writer
from memoserve.pipeline.contents import WINDOW_PART, Contents, Run, TextRun
from memoserve.pipeline.indexing import Indexer
from memoserve.pipeline.library import write_passages
from memoserve.pipeline.residents import KV
from memoserve.pipeline.runtime import Runtime
from memoserve.pipeline.sources import SourceTexts
from memoserve.pipeline.values import Language
from memoserve.retrieval.chunker import CHUNKER_VERSION


@dataclass
class Draft:
    """A version in the making: what was fed since ``base``."""

    base: Contents | None
    sources: SourceTexts
    indexer: Indexer
    tokens: list[int] = field(default_factory=list)
    language: Language = Language.EN
    pending_text: str = ""
    at_segment_start: bool = True
    tokens_done: int = 0
    memory_rows: int = 0

    @staticmethod
    def after(base: Contents | None, indexer: Indexer) -> Draft:
        """An empty draft on top of a version, or of nothing."""
        return Draft(base, SourceTexts(base), indexer)

    @property
    def base_tokens(self) -> int:
        """Tokens that the base holds."""
        return self.base.tokens if self.base else 0

    @property
    def next_token(self) -> int:
        """Index in the memory of the next token to be fed."""
        return self.base_tokens + len(self.tokens)


class _Parts:
    """Stages parts, and adds up the distinct files behind them."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._sizes: dict[str, int] = {}

    @property
    def stored_bytes(self) -> int:
        """As VersionRecord has it once it is committed."""
        return sum(self._sizes.values())

    def keep(self, ref: PartRef) -> None:
        self._add(self._staging.keep(ref))

    def write_bytes(self, part: str, data: bytes) -> None:
        self._add(self._staging.write_bytes(part, data))

    def write_tensors(self, part: str, tensors: Mapping[str, torch.Tensor]) -> None:
        self._add(self._staging.write_tensors(part, tensors))

    def _add(self, ref: PartRef) -> None:
        self._sizes[ref.digest] = ref.size


Receipt = Callable[[Contents, int], Mapping[str, Any]]
"""From what is about to be committed, and its stored bytes, to what its caller will be told."""


def write_version(
    runtime: Runtime,
    writer: Writer,
    draft: Draft,
    host: HostState,
    request_id: str,
    receipt: Receipt,
) -> VersionRecord:
    """Write what is new, share the rest, commit. Blocks on the disk; ``host`` holds new rows.

    ``receipt`` is kept with ``request_id``, where there is one.
    """
    base_record = runtime.store.get(writer.name) if draft.base else None
    with writer.stage() as staging:
        parts = _Parts(staging)
        contents = _stage(runtime, parts, base_record, draft, host)
        told = receipt(contents, parts.stored_bytes) if request_id else {}
        record = staging.commit(contents.to_meta(), request_id=request_id, receipt=told)
    shared = {ref.digest for ref in base_record.parts.values()} if base_record else set()
    new = {ref.digest: ref.size for ref in record.parts.values() if ref.digest not in shared}
    runtime.metrics.stored_bytes.inc(sum(new.values()))
    return record


def _stage(
    runtime: Runtime,
    parts: _Parts,
    base_record: VersionRecord | None,
    draft: Draft,
    host: HostState,
) -> Contents:
    base = draft.base
    if base_record is not None:
        for name, ref in base_record.parts.items():
            if name != WINDOW_PART:
                parts.keep(ref)
    parts.write_tensors(WINDOW_PART, {KV: host.window_rows})
    rows, row_bytes = host.state.memory_rows + host.window_rows.shape[0], runtime.shape.row_bytes
    return Contents(
        model=runtime.identity["model"],
        model_fingerprint=runtime.identity["model_fingerprint"],
        tokenizer_fingerprint=runtime.identity["tokenizer_fingerprint"],
        embedder_fingerprint=runtime.identity["embedder_fingerprint"],
        prompts_fingerprint=runtime.identity.get("prompts_fingerprint"),
        chunker_version=CHUNKER_VERSION,
        ratios=host.schedule.ratios,
        window=runtime.worker.rules.window,
        language=draft.language,
        state=host.state,
        window_rows=host.window_rows.shape[0],
        pending_text=draft.pending_text,
        at_segment_start=draft.at_segment_start,
        full_kv_bytes=draft.next_token * row_bytes,
        kv_bytes=rows * row_bytes,
        memory_runs=(base.memory_runs if base else ()) + _memory_run(parts, base, host),
        token_runs=(base.token_runs if base else ()) + _token_run(parts, base, draft),
        text_runs=(base.text_runs if base else ()) + _text_runs(parts, base, draft),
        passage_runs=(base.passage_runs if base else ()) + _passage_run(parts, base, draft),
    )


def _memory_run(parts: _Parts, base: Contents | None, host: HostState) -> tuple[Run, ...]:
    """Rows of the windows that closed since the base; earlier ones are never rewritten."""
    count = host.memory_rows.shape[0]
    if count == 0:
        return ()
    part = f"kv/{len(base.memory_runs) if base else 0}"
    parts.write_tensors(part, {KV: host.memory_rows})
    return (Run(part, host.first_row, count),)


def _token_run(parts: _Parts, base: Contents | None, draft: Draft) -> tuple[Run, ...]:
    if not draft.tokens:
        return ()
    part = f"tokens/{len(base.token_runs) if base else 0}"
    parts.write_tensors(part, {"ids": torch.tensor(draft.tokens, dtype=torch.int32)})
    return (Run(part, draft.base_tokens, len(draft.tokens)),)


def _text_runs(parts: _Parts, base: Contents | None, draft: Draft) -> tuple[TextRun, ...]:
    number = len({run.part for run in base.text_runs}) if base else 0
    part = f"text/{number}"
    runs, data = draft.sources.runs(part, draft.base_tokens)
    if runs:
        parts.write_bytes(part, data)
    return runs


def _passage_run(parts: _Parts, base: Contents | None, draft: Draft) -> tuple[Run, ...]:
    chunks = draft.indexer.chunks
    if not chunks:
        return ()
    part = f"passages/{len(base.passage_runs) if base else 0}"
    first = base.passages if base else 0
    return (write_passages(parts.write_bytes, part, first, chunks, draft.indexer.vectors),)
