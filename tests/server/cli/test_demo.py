"""The demo's ways around a text that is too long for the default ratio."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from memoserve.cli.demo_steps import memorize_text
from memoserve_client import Client, Source
from memoserve_client.errors import ErrorDetails, OutOfRange

TEXT = b"word " * 600


class Limited:
    """A server that takes the text at ``holds`` alone, and advises what it is told to."""

    def __init__(self, holds: int, advice: dict[int, str]) -> None:
        self.holds = holds
        self.advice = advice
        self.calls: list[dict[str, Any]] = []

    def info(self) -> SimpleNamespace:
        return SimpleNamespace(model=SimpleNamespace(default_ratio=4))

    def memorize(self, name: str, sources: list[Source], **options: Any) -> SimpleNamespace:
        self.calls.append(options)
        assert [source.text for source in sources] == [TEXT]
        ratio = options["ratio"]
        if ratio != self.holds:
            metadata = {"fitting_ratio": self.advice[ratio]}
            raise OutOfRange("the text is too long", ErrorDetails(metadata=metadata))
        return SimpleNamespace(memory=SimpleNamespace(version=1), tokens_added=9, seconds=1.0)


def write(server: Limited) -> list[int]:
    memorize_text(cast(Client, server), "demo", Source("a.txt", TEXT))
    return [call["ratio"] for call in server.calls]


def test_a_text_that_fits_takes_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    server = Limited(4, {})
    assert write(server) == [4]
    # The guess of its length is what the server's advice goes by.
    assert server.calls[0]["expected_tokens"] == 1000
    assert "once more" not in capsys.readouterr().out


def test_a_long_text_takes_the_ratio_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert write(Limited(32, {4: "8", 8: "32"})) == [4, 8, 32]
    said = capsys.readouterr().out
    assert "the text is too long\nonce more, at ratio 8\n" in said
    assert "once more, at ratio 32\n" in said


@pytest.mark.parametrize("advice", ["none", "4", "2", ""])
def test_a_text_that_no_ratio_holds_ends(advice: str) -> None:
    with pytest.raises(OutOfRange):
        write(Limited(0, {4: advice}))
