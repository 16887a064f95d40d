"""What the recipes work with: the parts of one server, put together once by the command line."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from memoserve.engine.worker import EngineWorker
from memoserve.errors import NotFound
from memoserve.generators.base import Generator
from memoserve.memory.kv_cache import KVShape
from memoserve.memory.ratio import RatioPolicy
from memoserve.memory.store import Store
from memoserve.metrics import Metrics
from memoserve.models.loader import LoadedModel
from memoserve.models.tokenizer import TextTokenizer
from memoserve.pipeline.clues import ClueRules
from memoserve.pipeline.prompts import PromptSet
from memoserve.pipeline.residents import Residents
from memoserve.pipeline.values import ModelInfo
from memoserve.retrieval.embedder import Embedder


@dataclass(frozen=True)
class Limits:
    """What one request may ask for at most.

    A query of more than ``max_query_chars`` code points is refused before it is tokenized.
    """

    max_new_tokens: int = 4096
    max_query_chars: int = 65536
    max_query_tokens: int = 16384
    embed_batch: int = 32


# Of an identity: what stored keys and values depend on, and what stored vectors depend on.
PAGE_KEYS = ("model_fingerprint", "tokenizer_fingerprint", "prompts_fingerprint")
INDEX_KEYS = ("embedder_fingerprint",)


@dataclass(frozen=True)
class Runtime:
    """Parts of a running server.

    ``identity`` is written into every version, to be matched when it is used; it lacks
    ``prompts_fingerprint`` where the words around a document are the built-in ones. ``indexing``
    runs what waits for the embedder on behalf of Memorize calls, so that however many there are
    they take no thread that a query needs.
    """

    model: LoadedModel
    model_info: ModelInfo
    tokenizer: TextTokenizer
    prompts: PromptSet
    worker: EngineWorker
    shape: KVShape
    policy: RatioPolicy
    store: Store
    residents: Residents
    embedder: Embedder
    generators: Mapping[str, Generator]
    default_generator: str
    metrics: Metrics
    identity: Mapping[str, str]
    indexing: Executor
    clue_rules: ClueRules
    limits: Limits
    device: str
    backend: str

    def generator(self, name: str) -> Generator:
        """Generator of a name, the default for an empty one. Raises NotFound."""
        chosen = name or self.default_generator
        if chosen not in self.generators:
            raise NotFound("generator", chosen)
        return self.generators[chosen]

    def identity_of(self, keys: tuple[str, ...]) -> dict[str, str | None]:
        """The part of the identity that a use depends on; None is a key that must be absent."""
        return {key: self.identity.get(key) for key in keys}

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        eos = self.tokenizer.eos_id
        return self.model.eos_ids | (frozenset() if eos is None else {eos})
