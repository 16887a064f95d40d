"""Seeded documents in plain English with a world behind them, and questions about that world."""

from __future__ import annotations

from memoserve_training.worlds.documents import make_document, make_needle
from memoserve_training.worlds.names import names_of
from memoserve_training.worlds.values import Document, Kind, Question, Span, Split, WorldSettings

__all__ = [
    "Document",
    "Kind",
    "Question",
    "Span",
    "Split",
    "WorldSettings",
    "make_document",
    "make_needle",
    "names_of",
]
