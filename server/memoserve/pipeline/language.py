"""English or Chinese prompts, by the script of the text."""

from __future__ import annotations

import re

from memoserve.pipeline.values import Language

# Characters of a text that are looked at; fixed, so that the split of a stream changes nothing.
SAMPLE_CHARS = 2000
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_NO_SPACES = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af]|[\U00020000-\U0003134f]"
)
_LETTER = re.compile(r"[^\W\d_]")


def detect(text: str) -> Language:
    """ZH where at least three letters in ten of the sample are Han, else EN."""
    sample = text[:SAMPLE_CHARS]
    letters = len(_LETTER.findall(sample))
    return Language.ZH if letters and len(_HAN.findall(sample)) >= 0.3 * letters else Language.EN


def is_spaceless(text: str) -> bool:
    """Mostly of a script without spaces (Chinese, Japanese) or with few (Korean)."""
    letters = len(_LETTER.findall(text))
    return letters > 0 and len(_NO_SPACES.findall(text)) >= 0.5 * letters
