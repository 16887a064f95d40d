"""What a section of a stage works with: device, rows, sizes, time; and how its errors end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

import torch

from benchmarks.gpu.machine import Machine, Timing
from benchmarks.gpu.rows import FAILED, NOT_AVAILABLE, NOT_REACHED, Rows
from benchmarks.gpu.sizes import Sizes

# After these every later call on the device fails too: the process has to be started anew.
_FATAL = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "illegal instruction",
    "launch timed out",
    "uncorrectable",
)
P = ParamSpec("P")


class DeviceLost(Exception):
    """The CUDA context is gone; the driver starts the section after this one afresh."""


class TimeIsUp(Exception):
    """The deadline passed in the middle; the text says how far it got."""


class NotAvailable(Exception):
    """The figure cannot be had here; the text says why."""


@contextmanager
def refusals() -> Iterator[None]:
    """A door that refuses a type by name (fp8 where the chip has none) is no failure."""
    try:
        yield
    except ValueError as error:
        raise NotAvailable(f"refused: {error}") from error


@dataclass(frozen=True)
class Bench:
    """Passed to every section. ``deadline`` on the monotonic clock."""

    machine: Machine
    rows: Rows
    sizes: Sizes
    out: Path
    seed: int
    deadline: float

    @property
    def seconds_left(self) -> float:
        """Of this stage."""
        return self.deadline - time.monotonic()

    def guard(
        self,
        op: str,
        shape: str,
        measure: Callable[P, None],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> bool:
        """Run one measurement; whatever goes wrong becomes its row. True if nothing did."""
        if self.seconds_left <= 0:
            self.rows.add(op, shape, NOT_REACHED, "", "the stage's time was up")
            return False
        try:
            measure(*arguments, **named)
            self.machine.synchronise()
        except NotAvailable as error:
            self.rows.add(op, shape, NOT_AVAILABLE, "", str(error))
        except TimeIsUp as error:
            self.rows.add(op, shape, NOT_REACHED, "", str(error))
        except torch.OutOfMemoryError as error:
            self.rows.add(op, shape, FAILED, "", f"out of device memory: {error}")
        except Exception as error:
            self.rows.add(op, shape, FAILED, "", f"{type(error).__name__}: {error}")
            if any(text in str(error) for text in _FATAL):
                raise DeviceLost(str(error)) from error
        else:
            return True
        self.machine.tidy()
        return False

    def add_time(self, op: str, shape: str, timing: Timing, note: str = "") -> None:
        """A row in milliseconds with its spread."""
        said = f"{timing.note}; {note}" if note else timing.note
        self.rows.add(op, shape, timing.median * 1e3, "ms", said)


Section = Callable[[Bench], None]
