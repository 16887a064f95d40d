"""What a version's manifest says, typed: where the pieces of a memory are and how they fit.

Runs are pieces that a commit added and that later versions share: rows of closed windows, token
ids, source text, passages with their vectors. Only the open window is written anew each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from memoserve.errors import DataLoss
from memoserve.memory.snapshot import VersionRecord
from memoserve.memory.window import RatioSchedule, WindowState
from memoserve.pipeline.values import Language

FORMAT = 1
WINDOW_PART = "window"


@dataclass(frozen=True)
class Run:
    """``count`` items from item ``first`` on, in a part; the unit is the list's."""

    part: str
    first: int
    count: int


@dataclass(frozen=True)
class TextRun:
    """A stretch of a source's text; offsets count from the start of the source.

    It lies in ``part`` from byte ``part_byte`` on; all text of a commit shares a part.
    """

    source_id: str
    part: str
    start_char: int
    start_byte: int
    chars: int
    num_bytes: int
    first_token: int
    part_byte: int = 0

    @property
    def end_char(self) -> int:
        """Code points of the source up to here."""
        return self.start_char + self.chars

    @property
    def end_byte(self) -> int:
        """UTF-8 bytes of the source up to here."""
        return self.start_byte + self.num_bytes


@dataclass(frozen=True)
class Contents:
    """One version. ``memory_runs`` hold sink and beacon rows, ``token_runs`` all ids fed.

    ``prompts_fingerprint`` is None, and absent from the manifest, with the built-in prompts.
    """

    model: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    embedder_fingerprint: str
    chunker_version: int
    ratios: tuple[int, ...]
    window: int
    language: Language
    state: WindowState
    window_rows: int
    pending_text: str
    at_segment_start: bool
    full_kv_bytes: int
    kv_bytes: int
    memory_runs: tuple[Run, ...] = ()
    token_runs: tuple[Run, ...] = ()
    text_runs: tuple[TextRun, ...] = ()
    passage_runs: tuple[Run, ...] = ()
    prompts_fingerprint: str | None = None

    @property
    def schedule(self) -> RatioSchedule:
        """Ratios of the memory."""
        return RatioSchedule(self.ratios)

    @property
    def tokens(self) -> int:
        """Raw tokens fed."""
        return self.state.windows_closed * self.window + self.state.open_tokens

    @property
    def passages(self) -> int:
        """Passages indexed."""
        return sum(run.count for run in self.passage_runs)

    @property
    def sources(self) -> int:
        """Sources, counting a continued one once."""
        return sum(run.start_char == 0 for run in self.text_runs)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all sources."""
        return sum(run.num_bytes for run in self.text_runs)

    def to_meta(self) -> dict[str, Any]:
        """As JSON values."""
        meta = asdict(self)
        meta["language"] = self.language.value
        if self.prompts_fingerprint is None:
            del meta["prompts_fingerprint"]
        return {"contents_format": FORMAT, **meta}


def read_contents(record: VersionRecord) -> Contents:
    """Contents of a committed version; raises DataLoss where the manifest is not ours."""
    meta: dict[str, Any] = dict(record.meta)
    try:
        if meta.pop("contents_format") != FORMAT:
            raise ValueError("another contents format")
        runs: dict[str, Any] = {
            key: tuple(Run(**run) for run in meta.pop(key))
            for key in ("memory_runs", "token_runs", "passage_runs")
        }
        texts = tuple(TextRun(**run) for run in meta.pop("text_runs"))
        state = WindowState(**_mapping(meta.pop("state")))
        language, ratios = Language(meta.pop("language")), tuple(meta.pop("ratios"))
        return Contents(
            **meta, **runs, text_runs=texts, state=state, language=language, ratios=ratios
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataLoss(
            f"memory {record.name} version {record.version}: its manifest cannot be read",
            memory=record.name,
            version=record.version,
        ) from error


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("an object is needed")
    return value
