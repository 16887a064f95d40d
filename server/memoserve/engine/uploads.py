"""Integers of a step on their way to the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memoserve.engine.device import Device
from memoserve.engine.streams import Staging

# More uploads than a step of any kind has: it ends by waiting for its tokens, and then all of their
# buffers are free, so that it waits for none of them. Only steps without tokens get ahead this far.
RING = 64
# Parts of a packed upload begin at multiples of this, so that kernels may read 16 bytes at once.
ALIGN_BYTES = 128


class Uploads:
    """Sends arrays to the compute stream, through page-locked buffers where those are on."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._staging = Staging(device.host_empty, RING)

    def upload(self, values: NDArray[Any]) -> Tensor:
        """A fresh tensor on the device with the values."""
        host = torch.from_numpy(np.ascontiguousarray(values))
        if not self.device.options.pinned_uploads:
            return host.to(self.device.where)
        target = torch.empty(host.shape, dtype=host.dtype, device=self.device.where)
        self._send(host, target)
        return target

    def upload_into(self, values: NDArray[Any], target: Tensor) -> None:
        """The values into a contiguous tensor of the device that stays where it is."""
        host = torch.from_numpy(np.ascontiguousarray(values))
        if self.device.options.pinned_uploads:
            self._send(host, target)
        else:
            target.copy_(host)

    def _send(self, host: Tensor, target: Tensor) -> None:
        stream = self.device.compute
        self._staging.send(host, stream, lambda staged: target.copy_(staged, non_blocking=True))

    def upload_packed(self, parts: Mapping[str, NDArray[np.int64]]) -> dict[str, Tensor]:
        """All parts in one copy: tensors that share one allocation."""
        align = ALIGN_BYTES // 8
        ends = list(
            accumulate((-(-len(part) // align) * align for part in parts.values()), initial=0)
        )
        packed = np.zeros(ends[-1], dtype=np.int64)
        for first, part in zip(ends, parts.values(), strict=False):
            packed[first : first + len(part)] = part
        whole = self.upload(packed)
        return {
            name: whole[first : first + len(part)]
            for first, (name, part) in zip(ends, parts.items(), strict=False)
        }
