"""The checks of the public door: each names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Impl = Literal["auto", "triton", "reference"]

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def resolve_impl(impl: Impl, tensor: Tensor) -> Literal["triton", "reference"]:
    """``"auto"`` is the Triton kernel on a GPU tensor and the reference on any other; an explicit
    choice is kept."""
    if impl not in ("auto", "triton", "reference"):
        raise ValueError(f"impl must be 'auto', 'triton' or 'reference', got {impl!r}")
    if impl == "auto":
        return "triton" if tensor.is_cuda else "reference"
    if impl == "triton" and not tensor.is_cuda:
        from prunevid_kernels.kernels import is_interpreted

        if not is_interpreted():
            raise ValueError(
                f"impl='triton' needs a GPU tensor, got one on {tensor.device}; on a CPU "
                "the kernels run only under "
                "Triton's interpreter (TRITON_INTERPRET=1, set before prunevid_kernels is imported)"
            )
    return impl


def require_float_tensor(name: str, value: object, axes: str) -> None:
    """``value`` is a strided tensor of a supported float dtype with the dimensions ``axes``, e.g.
    ``"T, N, C"``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor [{axes}], got {type(value).__name__}")
    if value.ndim != axes.count(",") + 1:
        raise ValueError(f"{name} must have the dimensions [{axes}], got shape {list(value.shape)}")
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16 or float32, got {value.dtype}")


def require_no_empty_axis(name: str, value: Tensor, axes: str) -> None:
    if 0 in value.shape:
        raise ValueError(
            f"{name} [{axes}] must not have an empty dimension, got shape {list(value.shape)}"
        )


def require_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """``value`` shares dtype and device with ``other``."""
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name} must have the dtype of {other_name}, {other.dtype}, got {value.dtype}"
        )
    if value.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}, {other.device}, got {value.device}"
        )


def require_lengths(
    name: str, lengths: Sequence[int], *, count: int | None = None, minimum: int, maximum: int
) -> list[int]:
    """``lengths`` is a sequence of integers in [minimum, maximum], ``count`` of them where that is
    given."""
    if isinstance(lengths, Tensor):
        raise TypeError(
            f"{name} must be a sequence of Python integers "
            "(reading a tensor would wait for the device)"
        )
    values = list(lengths)
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must have {count} entries, got {len(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must hold integers, got {value!r}")
        if not minimum <= value <= maximum:
            raise ValueError(f"{name} must hold integers in [{minimum}, {maximum}], got {value}")
    return values
