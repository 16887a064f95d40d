"""Stage ``peers``: transformers with the full KV beside the engine, same weights, in turns.

The peer keeps every token's keys: it does less per token while reading and reads the window and
``ratio`` times the beacons while decoding. It goes as far as the device's memory does.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, NotAvailable, Section, TimeIsUp
from benchmarks.gpu.engine_model import Session, model_of, random_ids
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.peers import SLOW_SECTIONS
from benchmarks.gpu.sizes import Sizes


def peer_model(machine: Machine, sizes: Sizes) -> Any:
    """transformers' own class of the same shape, random weights, made on the device."""
    import transformers

    config = transformers.Qwen2Config.from_dict(sizes.config())
    with torch.device(machine.device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    return model.eval()


class Peer:
    """The full KV of one text; queries start from it and leave it as it was."""

    def __init__(self, bench: Bench, model: Any) -> None:
        import transformers

        self.bench = bench
        self.model = model
        self.cache: Any = transformers.DynamicCache()

    @torch.inference_mode()
    def read(self, tokens: tuple[int, ...]) -> float:
        """Prefill in pieces of a window; seconds."""
        machine, size = self.bench.machine, self.bench.sizes.window
        ids = torch.tensor([tokens], device=machine.device)

        def prefill() -> None:
            for piece in ids.split(size, dim=1):
                if self.bench.seconds_left <= 0:
                    raise TimeIsUp("the stage's time was up while the peer read")
                self.model(piece, past_key_values=self.cache, logits_to_keep=1)

        return machine.wall(prefill).median

    @torch.inference_mode()
    def answer(self, query: tuple[int, ...], new_tokens: int) -> list[float]:
        """Seconds from the question to each token."""
        machine, piece = self.bench.machine, torch.tensor([query], device=self.bench.machine.device)
        machine.synchronise()
        began, times = time.perf_counter(), []
        for _ in range(new_tokens):
            logits = self.model(piece, past_key_values=self.cache, logits_to_keep=1).logits
            piece = logits[:, -1:].argmax(-1)
            int(piece)  # a server sends the token before it makes the next
            times.append(time.perf_counter() - began)
        self.cache.crop(-(len(query) + new_tokens - 1))
        return times


def full_kv(bench: Bench) -> None:
    """Texts of growing length: reading, first token, between tokens, and ours over theirs."""
    sizes = bench.sizes
    model = peer_model(bench.machine, sizes)
    # Ours takes the very same tensors; the beacons' projections start as copies of theirs.
    rows = max(sizes.full_kv_tokens) // sizes.ratios[0] + 6 * sizes.window
    session = Session(
        bench.machine,
        model_of(sizes, dict(model.state_dict())),
        bench.deadline,
        num_pages=2 * -(-rows // sizes.page_size),
        page_size=sizes.page_size,
    )
    for tokens in sizes.full_kv_tokens:
        shape = f"tokens={tokens}"
        if not bench.guard("full KV", shape, _compare, bench, session, model, tokens):
            break


def _compare(bench: Bench, session: Session, model: Any, tokens: int) -> None:
    sizes, shape = bench.sizes, f"tokens={tokens}"
    text = random_ids(sizes, tokens, bench.seed)
    query = random_ids(sizes, sizes.query_tokens, 5)
    memory, ours_read = session.memorize(text, sizes.ratios[0])
    session.read([memory], query, 3)  # warm-up
    reading = session.read([memory], query, sizes.new_tokens)
    session.engine.release(memory)
    full = Peer(bench, model)
    try:
        theirs_read = full.read(text)
        full.answer(query, 3)
        times = full.answer(query, sizes.new_tokens)
    except torch.OutOfMemoryError as error:
        raise NotAvailable(f"the full KV no longer fits: {error}") from error
    ours_between = sum(reading.between_s) / len(reading.between_s)
    theirs_between = (times[-1] - times[0]) / (len(times) - 1)
    for op, ours, theirs in (
        ("read a text", ours_read, theirs_read),
        ("first token", reading.first_s[0], times[0]),
        ("between tokens", ours_between, theirs_between),
    ):
        bench.rows.add(op, f"{shape} memoserve ratio={sizes.ratios[0]}", ours * 1e3, "ms", "wall")
        peer = f"{shape} transformers full KV, sdpa"
        bench.rows.add(op, peer, theirs * 1e3, "ms", f"wall; read in pieces of {sizes.window}")
        bench.rows.add(op, f"{shape} transformers / memoserve", theirs / ours, "x time")


SECTIONS: dict[str, Section] = {"full KV": full_kv, **SLOW_SECTIONS}
