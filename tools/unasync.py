"""Write the blocking Python client from the asyncio one (`make proto`).

Words are replaced token by token; the result is brought into form by ruff. What cannot be told by
words alone stands in the hand-written ``seam.py`` of each side.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "clients/python/memoserve_client"
MODULES = ("client.py", "stream.py")
HEADER = "# Written by tools/unasync.py from _async/{name}; do not edit.\n"

DROPPED = ("async", "await")
REPLACED = {
    "_async": "_sync",
    "AsyncClient": "Client",
    "AsyncEventStream": "EventStream",
    "AsyncIterator": "Iterator",
    "AsyncText": "Text",
    "StopAsyncIteration": "StopIteration",
    "aclose": "close",
    "aiter_pieces": "iter_pieces",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
# Whole sentences of docstrings that are true on one side only.
SENTENCES = {
    " Make it inside a running event loop and close it there.": " Threads may share it.",
}


def blocking(source: str) -> str:
    """The blocking twin of asyncio source code, not yet in form."""
    lines = source.splitlines(keepends=True)
    # From the end, so that earlier positions stay true.
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
        (row, start), (end_row, end) = token.start, token.end
        if token.type == tokenize.NAME and row == end_row:
            line = lines[row - 1]
            if token.string in DROPPED:
                lines[row - 1] = line[:start] + line[end:].lstrip(" ")
            else:
                word = REPLACED.get(token.string, token.string)
                lines[row - 1] = line[:start] + word + line[end:]
    text = "".join(lines)
    for there, here in SENTENCES.items():
        text = text.replace(there, here)
    return text


def formatted(text: str, name: str) -> str:
    """The same by the project's ruff settings: imports in order, then the layout."""
    stdin_name = f"--stdin-filename={PACKAGE / '_async' / name}"
    for command in (["check", "--fix-only", "--select=I"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--no-cache", stdin_name, "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def generated(name: str) -> str:
    """What ``_sync/name`` shall hold."""
    source = (PACKAGE / "_async" / name).read_text(encoding="utf-8")
    return formatted(HEADER.replace("{name}", name) + blocking(source), name)


def main() -> None:
    """Write, or with --check compare and exit 1 on a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check: bool = parser.parse_args().check
    for name in MODULES:
        target = PACKAGE / "_sync" / name
        text = generated(name)
        current = target.read_text(encoding="utf-8") if target.exists() else ""
        if text == current:
            continue
        if check:
            sys.exit(f"{target.name} differs from its asyncio source, run `make proto`")
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
