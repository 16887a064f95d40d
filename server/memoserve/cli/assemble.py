"""Puts a server together from its configuration: the one place that knows every part."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
from memoserve.engine.device import DeviceOptions
from memoserve.engine.worker import EngineWorker
from memoserve.errors import InvalidArgument
from memoserve.generators.base import Generator
from memoserve.generators.engine import EngineGenerator
from memoserve.generators.quote import QuoteGenerator
from memoserve.memory.store import Store
from memoserve.metrics import Metrics
from memoserve.models.loader import (
    FP8_CAPABILITY,
    OLDEST_CAPABILITY,
    LoadedModel,
    load_model,
    resolve_directory,
    usable_device,
)
from memoserve.models.tokenizer import TextTokenizer
from memoserve.pipeline.clues import ClueRules
from memoserve.pipeline.prompt_file import read_prompts
from memoserve.pipeline.prompts import BUILT_IN, PromptSet
from memoserve.pipeline.residents import Residents
from memoserve.pipeline.runtime import PAGE_KEYS, Limits, Runtime
from memoserve.pipeline.service import MemoPipeline
from memoserve.pipeline.values import ModelInfo
from memoserve.retrieval.embedder import Embedder
from memoserve.retrieval.minilm import load_minilm
from memoserve_kernels import ops

# Threads that cut and embed for Memorize calls; the embedder itself runs on one of its own.
INDEXING_THREADS = 2


@dataclass(frozen=True)
class Parts:
    """What is loaded from files, the store apart."""

    model: LoadedModel
    tokenizer: TextTokenizer
    embedder: Embedder
    prompts: PromptSet = BUILT_IN


@dataclass(frozen=True)
class Assembled:
    """A server without its edge; ``close`` ends what runs in it."""

    pipeline: MemoPipeline
    metrics: Metrics
    runtime: Runtime
    closing: ExitStack

    def close(self) -> None:
        """Stop the engine, then let go of files and threads."""
        self.closing.close()


def assemble(config: ServerConfig) -> Assembled:
    """Load everything a configuration names; the engine's thread runs on return.

    Raises InvalidArgument naming the option or the file's field, ResourceExhausted for a pool too
    small for one window or a device too small for the weights, FailedPrecondition for a device, a
    store or an embedder that cannot be used.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    _device_of(config)  # before a model is fetched for it
    directory = resolve_directory(config.model)
    prompts = read_prompts(directory)  # the weights may take minutes
    model = load_named(config, directory)
    tokenizer = TextTokenizer.from_directory(directory)
    embedder = load_minilm()
    assembled = put_together(config, Parts(model, tokenizer, embedder, prompts))
    assembled.closing.callback(embedder.close)
    return assembled


def load_named(config: ServerConfig, directory: Path) -> LoadedModel:
    """The model in ``directory``, called by its Hub name where it was asked for by that.

    Raises as ``load_model``, and FailedPrecondition where the device is not there.
    """
    model = load_model(
        str(directory),
        dtype=None if config.dtype == "auto" else config.dtype,
        device=_device_of(config),
    )
    local = Path(config.model).expanduser().is_dir()
    return replace(model, name=directory.resolve().name if local else config.model)


def _device_of(config: ServerConfig) -> torch.device:
    oldest = FP8_CAPABILITY if config.memory_dtype == "fp8" else OLDEST_CAPABILITY
    return usable_device(config.device, oldest)


def put_together(config: ServerConfig, parts: Parts, limits: Limits | None = None) -> Assembled:
    """A running server without its edge, from loaded parts; errors as ``assemble``."""
    model, tokenizer, embedder = parts.model, parts.tokenizer, parts.embedder
    _check_vocabulary(model, tokenizer)
    policy = policy_of(model, config.ratio)
    metrics = Metrics()
    engine = build_engine(model, _engine_options(config), metrics)
    check_default_ratio(engine.rules, policy)
    worker = EngineWorker(engine)
    generators = _generators(config, parts, worker)
    identity = _identity(parts)
    with ExitStack() as closing:
        store = Store.open(config.data_dir, keep_versions=config.keep_versions)
        closing.callback(store.close)
        pages = {key: identity.get(key) for key in PAGE_KEYS}
        indexing = ThreadPoolExecutor(INDEXING_THREADS, "memoserve-indexing")
        closing.callback(indexing.shutdown, cancel_futures=True)
        runtime = Runtime(
            model=model,
            model_info=_model_info(model, config),
            tokenizer=tokenizer,
            prompts=parts.prompts,
            worker=worker,
            shape=kv_shape(model),
            policy=policy,
            store=store,
            residents=Residents(store, worker, pages, embedder.dimension),
            embedder=embedder,
            generators=generators,
            default_generator=config.generator,
            metrics=metrics,
            identity=identity,
            indexing=indexing,
            clue_rules=ClueRules(acknowledgements=parts.prompts.acknowledgements),
            limits=limits or Limits(),
            device=config.device,
            backend=ops.backend_name(torch.device(config.device), model.dtype),
        )
        pipeline = MemoPipeline(runtime)
        worker.start()
        closing.callback(worker.stop)
        return Assembled(pipeline, metrics, runtime, closing.pop_all())


def _generators(config: ServerConfig, parts: Parts, worker: EngineWorker) -> dict[str, Generator]:
    model, tokenizer = parts.model, parts.tokenizer
    stop_ids = model.eos_ids | ({tokenizer.eos_id} if tokenizer.eos_id is not None else set())
    writes = EngineGenerator(worker, tokenizer, frozenset(stop_ids), model.rope.max_positions)
    generators: dict[str, Generator] = {
        generator.name: generator for generator in (QuoteGenerator(parts.embedder), writes)
    }
    if config.generator not in generators:
        known = ", ".join(generators)
        raise InvalidArgument("generator", f"{config.generator!r}; known: {known}")
    return generators


def _engine_options(config: ServerConfig) -> EngineOptions:
    return EngineOptions(
        pool_bytes=config.pool_bytes,
        page_size=config.page_size,
        num_pages=config.num_pages,
        target_s=config.step_target_s,
        device=config.device,
        memory_dtype=config.memory_dtype,
        features=DeviceOptions(**dict.fromkeys(config.device_features, True)),
    )


def _check_vocabulary(model: LoadedModel, tokenizer: TextTokenizer) -> None:
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InvalidArgument(
            "model",
            f"its tokenizer has ids up to {tokenizer.vocab_size - 1}, its embedding only "
            f"{model.config.vocab_size} rows",
        )


def _identity(parts: Parts) -> dict[str, str]:
    """What a stored memory must agree with to be used by this server."""
    identity = {
        "model": parts.model.name,
        "model_fingerprint": parts.model.fingerprint,
        "tokenizer_fingerprint": parts.tokenizer.fingerprint,
        "embedder_fingerprint": parts.embedder.fingerprint,
    }
    prompts = parts.prompts.fingerprint
    return identity if prompts is None else identity | {"prompts_fingerprint": prompts}


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
