"""Puts a server together from its configuration: the one place that knows every part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from memoserve.config import ServerConfig
from memoserve.engine.build import (
    EngineOptions,
    build_engine,
    check_default_ratio,
    kv_shape,
    policy_of,
)
from memoserve.engine.worker import EngineWorker
from memoserve.errors import InvalidArgument
from memoserve.generators.base import Generator
from memoserve.generators.engine import EngineGenerator
from memoserve.generators.quote import QuoteGenerator
from memoserve.memory.store import Store
from memoserve.metrics import Metrics
from memoserve.models.loader import LoadedModel, load_model, resolve_directory
from memoserve.models.tokenizer import TextTokenizer
from memoserve.pipeline.clues import ClueRules
from memoserve.pipeline.residents import Residents
from memoserve.pipeline.runtime import Limits, Runtime
from memoserve.pipeline.service import MemoPipeline
from memoserve.pipeline.values import ModelInfo
from memoserve.retrieval.embedder import TransformerEmbedder
from memoserve.retrieval.minilm import load_minilm
from memoserve_kernels import ops


@dataclass(frozen=True)
class Assembled:
    """The parts of a server that have to be started and closed."""

    pipeline: MemoPipeline
    metrics: Metrics
    store: Store
    worker: EngineWorker
    embedder: TransformerEmbedder

    def close(self) -> None:
        """Stop the engine, then let go of files and threads."""
        self.worker.stop()
        self.embedder.close()
        self.store.close()


def assemble(config: ServerConfig) -> Assembled:
    """Load everything a configuration names; the engine's thread runs on return.

    Raises InvalidArgument naming the option, ResourceExhausted for a pool too small for one
    window, FailedPrecondition for a store or an embedder that cannot be used.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    directory = resolve_directory(config.model)
    model = load_model(str(directory), dtype=None if config.dtype == "auto" else config.dtype)
    tokenizer = TextTokenizer.from_directory(directory)
    _check_vocabulary(model, tokenizer)
    policy = policy_of(model, config.ratio)
    metrics = Metrics()
    engine = build_engine(model, _engine_options(config), metrics)
    check_default_ratio(engine.rules, policy)
    embedder = load_minilm()
    store = Store.open(config.data_dir, keep_versions=config.keep_versions)
    worker = EngineWorker(engine)
    identity = _identity(model, tokenizer, embedder)
    stop_ids = model.eos_ids | ({tokenizer.eos_id} if tokenizer.eos_id is not None else set())
    generators: dict[str, Generator] = {
        generator.name: generator
        for generator in (
            QuoteGenerator(embedder),
            EngineGenerator(worker, tokenizer, frozenset(stop_ids)),
        )
    }
    if config.generator not in generators:
        known = ", ".join(generators)
        store.close()
        raise InvalidArgument("generator", f"{config.generator!r}; known: {known}")
    runtime = Runtime(
        model=model,
        model_info=_model_info(model, config),
        tokenizer=tokenizer,
        worker=worker,
        shape=kv_shape(model),
        policy=policy,
        store=store,
        residents=Residents(store, worker, identity, embedder.dimension),
        embedder=embedder,
        generators=generators,
        default_generator=config.generator,
        metrics=metrics,
        identity=identity,
        clue_rules=ClueRules(),
        limits=Limits(),
        device=config.device,
        backend=ops.backend_name(torch.device(config.device), model.dtype),
    )
    worker.start()
    return Assembled(MemoPipeline(runtime), metrics, store, worker, embedder)


def _engine_options(config: ServerConfig) -> EngineOptions:
    return EngineOptions(
        pool_bytes=config.pool_bytes,
        page_size=config.page_size,
        num_pages=config.num_pages,
        target_s=config.step_target_s,
        device=config.device,
    )


def _check_vocabulary(model: LoadedModel, tokenizer: TextTokenizer) -> None:
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InvalidArgument(
            "model",
            f"its tokenizer has ids up to {tokenizer.vocab_size - 1}, its embedding only "
            f"{model.config.vocab_size} rows",
        )


def _identity(
    model: LoadedModel, tokenizer: TextTokenizer, embedder: TransformerEmbedder
) -> dict[str, str]:
    """What a stored memory must agree with to be used by this server."""
    return {
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "embedder_fingerprint": embedder.fingerprint,
    }


def _model_info(model: LoadedModel, config: ServerConfig) -> ModelInfo:
    shape, beacon = model.config, model.config.beacon
    return ModelInfo(
        name=model.name,
        family=shape.family,
        fingerprint=model.fingerprint,
        window=beacon.window,
        ratios=beacon.ratios,
        default_ratio=config.ratio,
        max_positions=model.rope.max_positions,
        layers=shape.num_layers,
        kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        dtype=str(model.dtype).removeprefix("torch."),
        card=model.card,
        clues_trusted=bool(shape.raw.get("memoserve_clues_trusted", True)),
    )


def sample_text() -> Path | None:
    """The sample corpus of a checkout, where this runs from one."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "corpus" / "sample.txt"
    return path if path.is_file() else None
