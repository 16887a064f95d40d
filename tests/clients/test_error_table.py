"""docs/errors.md names every error class with its status, and every reason in the server's code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from memoserve import errors

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")


def reasons_in(source: str) -> set[str]:
    """Reasons spelled out in code: ``reason="X"`` in a call, or a class's default_reason."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        value: ast.expr | None = None
        if isinstance(node, ast.keyword) and node.arg == "reason":
            value = node.value
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(one, ast.Name) and one.id == "default_reason" for one in targets):
                value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found.add(value.value)
    # UNKNOWN is the base class's, which is never raised itself.
    return found - {"UNKNOWN"}


def test_every_reason_in_the_code_is_told_and_no_other() -> None:
    sources = (ROOT / "server/memoserve").rglob("*.py")
    known = {reason for path in sources for reason in reasons_in(path.read_text(encoding="utf-8"))}
    statuses = {code for code, _ in classes()} | {"INTERNAL"}
    words = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", TABLE)) - {"APPEND", "REPLACE"}
    assert known - words == set(), "not in docs/errors.md"
    assert words - known - statuses == set(), "in docs/errors.md, but nowhere in the code"


def classes() -> set[tuple[str, str]]:
    """Status and name of every class of the server's tree."""
    members = [one for one in vars(errors).values() if isinstance(one, type)]
    return {
        (one.status, one.__name__)
        for one in members
        if issubclass(one, errors.MemoserveError)
        and one is not errors.MemoserveError
        and not one.__name__.startswith("_")
    }


def test_every_class_stands_beside_its_status_and_reason() -> None:
    for status, name in classes():
        default = getattr(errors, name).default_reason
        row = re.search(rf"^\| `{status}` \(`{name}`\) \| (.*?) \|", TABLE, re.MULTILINE)
        assert row and f"`{default}`" in row[1], f"{name} has no row"
