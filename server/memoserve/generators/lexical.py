"""Word overlap between a question and sentences, weighted by how rare a word is among them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WIDE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_NARROW = rf"[^\W_{_WIDE}]"
# A run of a script without spaces, or a word or number with inner marks (K-4471, 3.5, o'clock).
_TERM = re.compile(rf"(?P<wide>[{_WIDE}]+)|{_NARROW}(?:{_NARROW}|[-.,'’](?={_NARROW}))*")


def terms(text: str) -> set[str]:
    """Words without case and plural s; pairs of characters where a script has no spaces."""
    found: set[str] = set()
    for match in _TERM.finditer(text.casefold()):
        word = match.group()
        if match["wide"]:
            found.update(word[at : at + 2] for at in range(max(1, len(word) - 1)))
        else:
            found.add(_stem(word))
    return found


def overlaps(question: str, sentences: Sequence[str]) -> list[float]:
    """How much of the question each sentence repeats, 0 to 1.

    Words of the question that stand in no sentence tell nothing apart and are left out.
    """
    bags = [terms(sentence) for sentence in sentences]
    counts = Counter(term for bag in bags for term in bag)
    weights = {
        term: math.log(1.0 + len(bags) / counts[term]) for term in terms(question) & counts.keys()
    }
    total = sum(weights.values())
    if not total:
        return [0.0] * len(bags)
    return [sum(weights[term] for term in bag & weights.keys()) / total for bag in bags]


def _stem(word: str) -> str:
    word = word.removesuffix("'s").removesuffix("’s")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
