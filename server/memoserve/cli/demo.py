"""``memoserve demo``: the main job on a server of its own, through the public client.

Two acts: a small world that the model in the box was trained for, then a text of real length; a
text of the user's own takes the place of both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from memoserve.cli.commands import print_passage
from memoserve.cli.demo_steps import (
    Answered,
    Recalled,
    act,
    generate,
    heading,
    memorize_text,
    recall,
)
from memoserve.cli.demo_world import (
    World,
    ask_other,
    holds_after_restart,
    play_world,
    read_world,
)
from memoserve.cli.spawn import own_server
from memoserve.cli.tables import table
from memoserve_client import Client, Committed, Memory, Passage, Source

MEMORY = "demo"
OWN_QUESTION = "What is this text about?"
CLUE_TOKENS = 48
CORPUS = ("sample.txt", "sample_facts.json", "world.txt", "world_questions.json")


@dataclass(frozen=True)
class Asked:
    """A text of any length, the question about it, and what came of it."""

    question: str
    committed: Committed
    recalled: Recalled
    answered: Answered


def demo(text: Path | None, question: str | None, data_dir: Path) -> int:
    """Play the acts, restart the server and ask again; ends with a table of figures.

    Returns 0, or 1 where a restart changed something or no passage of the text was found; what the
    memory gets right or wrong is told and does not count here.
    """
    path, world = (text, None) if text else _own_corpus()
    data = _read(path)
    asked = question or (OWN_QUESTION if text else _sample_question(path))
    data_dir.mkdir(parents=True, exist_ok=True)
    store, log = data_dir / "store", data_dir / "server.log"
    print(f"starting a server in {data_dir} ...", flush=True)
    with own_server(store, log) as client:
        _introduce(client)
        played = None
        if world is not None:
            act("1. a small world the model was trained for, and a text of it that it never saw")
            played = play_world(client, world)
            ask_other(client, world, path.name, data)
            act("2. a text of real length, outside of that world")
        before = _play_text(client, Source(path.name, data), path, asked)
    heading("restart", "the server is stopped and started again on the same store")
    with own_server(store, log) as client:
        holds = _holds_after_restart(client, before)
        if played is not None:
            holds = holds_after_restart(client, played) and holds
        memory = client.get(MEMORY)
        print(f"read from disk: tier {memory.tier.value}")
    print()
    print(_figures(before.committed, before.recalled.first_clue_s, memory))
    return 0 if holds and before.answered.passages else 1


def _own_corpus() -> tuple[Path, World]:
    """The sample text and the small world of a checkout, where this runs from one."""
    folder = corpus_folder()
    if not all((folder / name).is_file() for name in CORPUS):
        raise ValueError("no sample text beside this installation: name one with --text")
    return folder / CORPUS[0], read_world(folder)


def corpus_folder() -> Path:
    """Where a checkout has its texts; an installation has no such folder."""
    return Path(__file__).resolve().parents[3] / "benchmarks" / "corpus"


def _read(path: Path) -> bytes:
    """The text, looked at before a server is started for it. Raises OSError, ValueError."""
    text = path.read_bytes()
    if not text.decode("utf-8").strip():
        raise ValueError(f"{path} is empty")
    return text


def _sample_question(path: Path) -> str:
    facts = json.loads((path.parent / "sample_facts.json").read_text(encoding="utf-8"))
    return str(facts[0]["question"])


def _introduce(client: Client) -> None:
    info = client.info()
    model = info.model
    print(
        f"memoserve {info.version}: model {model.name} ({model.family}, {model.layers} layers, "
        f"{model.dtype}), window {model.window}, ratio {model.default_ratio}; "
        f"embedder {info.embedder}; answers by {info.default_generator}"
    )


def _play_text(client: Client, source: Source, path: Path, question: str) -> Asked:
    """Memorize, recall, retrieve, generate: each as the server does it by default."""
    print(f"text: {path} ({path.stat().st_size:,} bytes)")
    print(
        "The model in the box was trained on a small made-up world alone: of any other text its\n"
        f"memory may suggest nothing but noise. {_card(client)}"
    )
    committed = memorize_text(client, MEMORY, source)
    print(f"\nquestion: {question}")
    heading("recall", "clues from the memory, right or not")
    recalled = recall(client, MEMORY, question, CLUE_TOKENS)
    heading("retrieve", "passages by the question")
    with client.retrieve(MEMORY, question) as events:
        for event in events:
            if isinstance(event, Passage):
                print_passage(event)
    return Asked(question, committed, recalled, _answer(client, question))


def _card(client: Client) -> str:
    """What the model says of its own clues, and what follows from it."""
    if client.info().model.clues_trusted:
        return "Its card vouches for its clues in that world: the answer uses them here too."
    return "Its card does not vouch for its clues: the answer goes without them."


def _answer(client: Client, question: str) -> Answered:
    heading("generate", "the answer, streaming, with its place in the text")
    return generate(client, MEMORY, question)


def _holds_after_restart(client: Client, before: Asked) -> bool:
    """Ask once more and say whether clues and answer are the same."""
    memory = client.get(MEMORY)
    print(f"still there: {memory.name} version {memory.version}, tier {memory.tier.value}")
    heading("recall", "once more")
    clues = recall(client, MEMORY, before.question, CLUE_TOKENS).said == before.recalled.said
    print(f"after the restart: {'the same clues' if clues else 'OTHER CLUES'}")
    answer = _answer(client, before.question).text == before.answered.text
    print(f"after the restart: {'the same answer' if answer else 'ANOTHER ANSWER'}")
    return clues and answer


def _figures(committed: Committed, clue_s: float | None, memory: Memory) -> str:
    stats = memory.stats
    saved = stats.full_kv_bytes / stats.kv_bytes if stats.kv_bytes else 0.0
    rows = [
        ("raw tokens", f"{stats.raw_tokens:,}"),
        ("beacons", f"{stats.memory_rows:,} (+ {stats.window_rows:,} rows of the open window)"),
        ("pages", f"{stats.pages:,} ({stats.wasted_slots:,} slots unused)"),
        ("KV bytes", f"{stats.kv_bytes:,}"),
        ("full KV bytes", f"{stats.full_kv_bytes:,} ({saved:.2f} times as many)"),
        ("passages", f"{stats.passages:,}"),
        ("memorize", f"{committed.tokens_added / committed.seconds:,.0f} tokens/s"),
        ("time to first clue", "none came" if clue_s is None else f"{clue_s * 1000:.0f} ms"),
    ]
    return table((), rows)
