"""Values to messages: what goes back to clients."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from memoserve.pipeline.values import (
    Accepted,
    Committed,
    MemorizeEvent,
    MemoryName,
    MemoryRef,
    MemoryStats,
    MemoryView,
    ModelInfo,
    Notice,
    Progress,
    ServerInfo,
)
from memoserve_proto.v1 import (
    common_pb2,
    memory_pb2,
    memory_service_pb2,
    server_service_pb2,
)


def to_name(name: MemoryName) -> common_pb2.MemoryName:
    """Return a memory's name."""
    return common_pb2.MemoryName(namespace=name.namespace, memory_id=name.memory_id)


def to_ref(ref: MemoryRef) -> common_pb2.MemoryRef:
    """Return a memory and its version."""
    return common_pb2.MemoryRef(name=to_name(ref.name), version=ref.version)


def to_memory(view: MemoryView) -> memory_pb2.Memory:
    """Return a memory as clients see it."""
    return memory_pb2.Memory(
        name=to_name(view.name),
        version=view.version,
        etag=view.etag,
        model=view.model,
        ratio=view.ratio,
        ratios=view.ratios,
        window=view.window,
        language=f"LANGUAGE_{view.language.name}",
        labels=view.labels,
        description=view.description,
        create_time=_timestamp(view.created_unix_s),
        update_time=_timestamp(view.updated_unix_s),
        tier=f"TIER_{view.tier.name}",
        pinned=view.pinned,
        stats=_stats(view.stats),
    )


def to_memorize_response(event: MemorizeEvent) -> memory_service_pb2.MemorizeResponse:
    """Return one event of Memorize."""
    response = memory_service_pb2.MemorizeResponse
    if isinstance(event, Accepted):
        return response(
            accepted=memory_service_pb2.MemorizeAccepted(
                memory=to_memory(event.memory),
                ratio=event.ratio,
                capacity_tokens=event.capacity_tokens,
            )
        )
    if isinstance(event, Progress):
        return response(
            progress=memory_service_pb2.MemorizeProgress(
                tokens_done=event.tokens_done,
                tokens_received=event.tokens_received,
                tokens_per_s=event.tokens_per_s,
                memory_rows=event.memory_rows,
                passages=event.passages,
                eta_s=event.eta_s,
            )
        )
    if isinstance(event, Notice):
        return response(warning=to_notice(event))
    return response(committed=_committed(event))


def to_server_info(info: ServerInfo) -> server_service_pb2.ServerInfo:
    """Return the server's facts."""
    return server_service_pb2.ServerInfo(
        version=info.version,
        backend=info.backend,
        device=info.device,
        model=_model(info.model),
        generators=info.generators,
        default_generator=info.default_generator,
        embedder=info.embedder,
        page_size=info.page_size,
        pages_total=info.pages_total,
        pages_free=info.pages_free,
        max_message_bytes=info.max_message_bytes,
        max_piece_bytes=info.max_piece_bytes,
        max_query_bytes=info.max_query_bytes,
    )


def to_notice(notice: Notice) -> common_pb2.Notice:
    """Return a warning."""
    return common_pb2.Notice(code=notice.code, message=notice.message)


def _committed(event: Committed) -> memory_service_pb2.MemorizeCommitted:
    return memory_service_pb2.MemorizeCommitted(
        memory=to_memory(event.memory),
        seconds=event.seconds,
        tokens_added=event.tokens_added,
        replayed=event.replayed,
    )


def _stats(stats: MemoryStats) -> memory_pb2.MemoryStats:
    return memory_pb2.MemoryStats(
        raw_tokens=stats.raw_tokens,
        memory_rows=stats.memory_rows,
        window_rows=stats.window_rows,
        windows_closed=stats.windows_closed,
        pages=stats.pages,
        wasted_slots=stats.wasted_slots,
        kv_bytes=stats.kv_bytes,
        full_kv_bytes=stats.full_kv_bytes,
        stored_bytes=stats.stored_bytes,
        text_bytes=stats.text_bytes,
        sources=stats.sources,
        passages=stats.passages,
        capacity_tokens=stats.capacity_tokens,
    )


def _model(model: ModelInfo) -> server_service_pb2.ModelInfo:
    return server_service_pb2.ModelInfo(
        name=model.name,
        family=model.family,
        fingerprint=model.fingerprint,
        window=model.window,
        ratios=model.ratios,
        default_ratio=model.default_ratio,
        max_positions=model.max_positions,
        layers=model.layers,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        dtype=model.dtype,
        card=model.card,
        clues_trusted=model.clues_trusted,
    )


def _timestamp(unix_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(unix_s * 1e6))
    return stamp
