"""Memory between the launches of one call, many tensors' worth in one allocation.

An allocation or a view costs the host as much as a launch, and a merge needs thirty of them for
what only its kernels see. All that a launcher, and Triton, ask of such a tensor is where it lies
and what it holds. So one allocation is cut into parts, which know that and no more. Where launches
are watched (the interpreter, the tools that compile, count or trace them), parts are tensors, each
with an allocation of its own, so that what is read or written beyond one is noticed.
"""

from __future__ import annotations

import functools
import math
from typing import cast

import torch
from torch import Tensor

from prunevid_kernels.kernels._device import is_interpreted
from prunevid_kernels.kernels._launch import is_watched

_INTERPRETED = is_interpreted()

ALIGNMENT = 128
"""Bytes of a line of L2."""


class Part:
    """A contiguous piece of an allocation: what launchers and Triton ask of a tensor."""

    __slots__ = ("_address", "_owner", "device", "dtype", "shape")

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        owner: object,
    ) -> None:
        self._address, self._owner = address, owner  # which keeps the memory
        self.shape, self.dtype, self.device = shape, dtype, device

    def data_ptr(self) -> int:
        return self._address

    def is_contiguous(self) -> bool:
        return True

    def stride(self, axis: int) -> int:
        return math.prod(self.shape[axis + 1 :])

    def __len__(self) -> int:
        return self.shape[0]

    def view(self, *shape: int) -> Part:
        """The same memory in another shape."""
        assert math.prod(shape) == math.prod(self.shape)
        return Part(self._address, shape, self.dtype, self.device, self._owner)

    def unbind(self) -> list[Part]:
        """The entries of the first axis."""
        shape = self.shape[1:]
        entry_bytes = math.prod(shape) * self.dtype.itemsize
        return [
            Part(address, shape, self.dtype, self.device, self._owner)
            for address in range(
                self._address, self._address + self.shape[0] * entry_bytes, entry_bytes
            )
        ]


def parts(device: torch.device, *kinds: tuple[tuple[int, ...], torch.dtype]) -> list[Tensor]:
    """Memory of these shapes and dtypes, not initialised, each part at a multiple of ``ALIGNMENT``
    bytes.

    They are called tensors because they are, where launches are watched; elsewhere they are
    :class:`Part`, which has nothing more of a tensor. None may reach a caller.
    """
    if _INTERPRETED or is_watched():
        return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in kinds]
    num_bytes, places = _layout(kinds)
    # Of floats: tests that fill fresh memory fill these with NaN.
    owner = torch.empty(num_bytes // 4, dtype=torch.float32, device=device)
    start = owner.data_ptr()
    found = [Part(start + place, *kind, device, owner) for place, kind in places]
    return cast("list[Tensor]", found)


@functools.lru_cache(maxsize=1024)
def _layout(
    kinds: tuple[tuple[tuple[int, ...], torch.dtype], ...],
) -> tuple[int, list[tuple[int, tuple[tuple[int, ...], torch.dtype]]]]:
    """The bytes of all parts, and where each begins."""
    num_bytes, places = 0, []
    for kind in kinds:
        places.append((num_bytes, kind))
        shape, dtype = kind
        num_bytes += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    return num_bytes, places


def span(values: Tensor, first: int, last: int) -> Tensor:
    """``values[first:last]`` of a tensor or a part of one axis, for kernels."""
    if _INTERPRETED or is_watched():
        return values[first:last]
    address = values.data_ptr() + first * values.dtype.itemsize
    return cast(Tensor, Part(address, (last - first,), values.dtype, values.device, values))
