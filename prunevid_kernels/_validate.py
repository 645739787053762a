"""The checks of the public door and of ``torch.ops.prunevid.*``: each names the argument, what was
expected and what came.

They look at what the host knows: types, shapes, lengths, never at a tensor's values, which on a GPU
would mean waiting. So they cost a few microseconds, and an op that is called by its name in
``torch.ops`` makes the same checks as the public function that calls it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from prunevid_kernels.config import require_count, require_ratio

Impl = Literal["auto", "triton", "reference"]

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

MAX_INT32 = 2**31 - 1


def resolve_impl(impl: Impl, tensor: Tensor) -> Literal["triton", "reference"]:
    """``"auto"`` is the Triton kernel on a GPU tensor and the reference on any other; an explicit
    choice is kept."""
    if type(impl) is not str or impl not in ("auto", "triton", "reference"):
        raise ValueError(f"impl must be 'auto', 'triton' or 'reference', got {impl!r}")
    if tensor.is_meta:
        raise ValueError("tensors on the meta device have no values to decide by")
    if impl == "auto":
        return "triton" if tensor.is_cuda else "reference"
    if impl == "triton" and not tensor.is_cuda:
        try:
            from prunevid_kernels.kernels import interpreter_fault, is_interpreted
        except ModuleNotFoundError as error:
            if error.name != "numpy":
                raise
            raise ModuleNotFoundError(
                "Triton's interpreter (TRITON_INTERPRET=1) needs numpy, which nothing else here"
                " does: pip install numpy",
                name="numpy",
            ) from error
        if not is_interpreted():
            raise ValueError(
                f"impl='triton' needs a GPU tensor, got one on {tensor.device}; on a CPU "
                "the kernels run only under "
                "Triton's interpreter (TRITON_INTERPRET=1, set before prunevid_kernels is "
                "imported; it needs numpy)"
            )
        if fault := interpreter_fault():
            raise ValueError(f"impl='triton' on {tensor.device}: {fault}")
    return impl


def require_float_tensor(name: str, value: object, axes: str) -> None:
    """``value`` is a strided tensor of a supported float dtype with the dimensions ``axes``, e.g.
    ``"T, N, C"``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor [{axes}], got {type(value).__name__}")
    if value.is_nested or value.layout != torch.strided:
        require_dense(name, value)
    if value.ndim != axes.count(",") + 1:
        raise ValueError(f"{name} must have the dimensions [{axes}], got shape {list(value.shape)}")
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16 or float32, got {value.dtype}")


def require_untransformed(**tensors: Tensor) -> None:
    """None of the tensors is an argument of a transform of ``torch.func``, whose tensors have no
    memory, or carries a tangent, which a kernel would drop without a word."""
    if torch.compiler.is_compiling():
        return
    may_be_dual = forward_ad._current_level >= 0
    for name, tensor in tensors.items():
        is_dual = may_be_dual and forward_ad.unpack_dual(tensor).tangent is not None
        if is_dual or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise ValueError(
                f"{name} must be an ordinary tensor: torch.func's transforms (vmap, grad, jvp) and "
                "forward-mode derivatives are not supported; autograd's backward is"
            )


def require_dense(name: str, value: Tensor) -> None:
    """``value`` has a shape and strides."""
    if value.is_nested or value.layout != torch.strided:
        kind = "a nested one" if value.is_nested else str(value.layout)
        raise TypeError(f"{name} must be a dense tensor, got {kind}")


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


def as_list(name: str, values: object, kind: str) -> list[Any]:
    """The entries of a sequence, or of what can be read only once, such as a generator."""
    is_scalar = isinstance(values, Tensor) and (values.is_nested or values.ndim == 0)
    if is_scalar or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of {kind}, got {type(values).__name__}")
    return list(values)


def as_scale(scale: object) -> float:
    """A factor of scores as a float."""
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise TypeError(f"scale must be a number, got {scale!r}")
    try:
        return float(scale)
    except OverflowError as error:
        raise ValueError("scale must be finite, got a number beyond float64") from error


def require_lengths(
    name: str, lengths: Sequence[int], *, count: int | None = None, minimum: int, maximum: int
) -> list[int]:
    """``lengths`` is a sequence of integers in [minimum, maximum], ``count`` of them where that is
    given. Returns them as Python's own."""
    if isinstance(lengths, Tensor):
        raise TypeError(
            f"{name} must be a sequence of Python integers "
            "(reading a tensor would wait for the device)"
        )
    if not isinstance(lengths, (list, tuple)):
        lengths = as_list(name, lengths, "integers")
    values = list(lengths)
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must have {count} entries, got {len(values)}")
    for position, value in enumerate(values):
        if type(value) is not int and not isinstance(value, torch.SymInt):  # the usual one first
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise TypeError(f"{name} must hold integers, got {value!r}")
            values[position] = int(value)
        if not minimum <= value <= maximum:
            raise ValueError(f"{name} must hold integers in [{minimum}, {maximum}], got {value}")
    return values


def require_no_gradient(function: str, **tensors: Tensor) -> None:
    """None of the tensors is to be differentiated: the function decides, and has no gradient."""
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            raise ValueError(
                f"{function} has no gradient, but {name} requires one: "
                f"pass {name}.detach(), or call it under torch.no_grad()"
            )


def check_merge_to_budget(
    features: Tensor,
    frames: Sequence[int],
    budgets: Sequence[int],
    tau: float,
    segment_ratio: float,
    cluster_ratio: float,
    num_neighbors: int,
    min_cluster_tokens: int,
) -> tuple[list[int], list[int]]:
    """The arguments of :func:`prunevid_kernels.custom_ops.merge_to_budget`; returns frames and
    budgets."""
    frames = check_videos(features, "frames", frames)
    tokens_per_frame = features.shape[1]
    budgets = require_lengths(
        "budgets",
        budgets,
        count=len(frames),
        minimum=1,
        maximum=features.shape[0] * tokens_per_frame,
    )
    for video, (budget, count) in enumerate(zip(budgets, frames, strict=True)):
        if budget > count * tokens_per_frame:
            raise ValueError(
                f"budgets must be at most the {count * tokens_per_frame} tokens of video {video}, "
                f"got {budget}"
            )
    require_ratio("tau", tau)
    require_ratio("segment_ratio", segment_ratio)
    require_ratio("cluster_ratio", cluster_ratio)
    require_count("num_neighbors", num_neighbors, minimum=1)
    require_count("min_cluster_tokens", min_cluster_tokens, minimum=1)
    return frames, budgets


def check_videos(features: Tensor, name: str, frames: Sequence[int]) -> list[int]:
    """``features`` [F, N, C] holds videos of ``frames`` frames, the argument called ``name``."""
    require_float_tensor("features", features, "T, N, C")
    require_no_empty_axis("features", features, "T, N, C")
    frames = require_lengths(name, frames, minimum=1, maximum=features.shape[0])
    if sum(frames) != features.shape[0]:
        raise ValueError(
            f"{name} must sum to the {features.shape[0]} frames of features, got {sum(frames)}"
        )
    return frames


def check_scores(
    query: Tensor,
    key: Tensor,
    start: int,
    stop: int,
    scale: float,
    causal_offset: int | None,
    key_mask: Tensor | None,
) -> None:
    """The arguments of :func:`prunevid_kernels.custom_ops.score_visual_tokens`."""
    require_float_tensor("query", query, "B, H, Q, D")
    require_float_tensor("key", key, "B, Hkv, S, D")
    require_no_empty_axis("query", query, "B, H, Q, D")
    require_no_empty_axis("key", key, "B, Hkv, S, D")
    require_like("key", key, "query", query)
    batch, heads, _, head_dim = query.shape
    _, kv_heads, num_keys, _ = key.shape
    if key.shape[0] != batch or key.shape[3] != head_dim or heads % kv_heads:
        raise ValueError(
            f"key [B, Hkv, S, D] must have the batch and head dim of query {list(query.shape)} "
            f"and a number of heads "
            f"that divides its {heads}, got shape {list(key.shape)}"
        )
    if not 0 <= start < stop <= num_keys:
        raise ValueError(
            f"the visual tokens must be 1 to {num_keys} of the keys, got keys {start} to {stop}"
        )
    if type(scale) is not float and (isinstance(scale, bool) or not isinstance(scale, Real)):
        raise TypeError(f"scale must be a number, got {scale!r}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale!r}")
    if causal_offset is not None:
        require_lengths("causal_offset", [causal_offset], minimum=0, maximum=MAX_INT32)
    if key_mask is not None:
        if not isinstance(key_mask, Tensor) or key_mask.dtype != torch.bool:
            came = getattr(key_mask, "dtype", type(key_mask).__name__)
            raise TypeError(f"key_mask must be a bool tensor [B, S], got {came}")
        require_dense("key_mask", key_mask)
        if key_mask.shape != (batch, num_keys):
            raise ValueError(
                f"key_mask must have shape {[batch, num_keys]}, got {list(key_mask.shape)}"
            )
        if key_mask.device != key.device:
            raise ValueError(
                f"key_mask must be on the device of key, {key.device}, got {key_mask.device}"
            )


def check_compact(tensors: Sequence[Tensor], index: Tensor, dim: int) -> list[Tensor]:
    """The arguments of :func:`prunevid_kernels.custom_ops.compact`; returns the tensors."""
    if isinstance(tensors, Tensor):
        raise TypeError("tensors must be a sequence of tensors, got one tensor")
    if type(tensors) is not list:  # calls cost more than looking
        tensors = as_list("tensors", tensors, "tensors")
    if not tensors:
        raise ValueError("tensors must hold at least one tensor, got none")
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        raise TypeError(
            f"index must be an int64 tensor, got {getattr(index, 'dtype', type(index).__name__)}"
        )
    if index.is_nested or index.layout != torch.strided:
        require_dense("index", index)
    if index.ndim not in (1, 2):
        raise ValueError(
            f"index must have the dimensions [K] or [B, K], got shape {list(index.shape)}"
        )
    if type(dim) is not int and (isinstance(dim, bool) or not isinstance(dim, Integral)):
        raise TypeError(f"dim must be an integer, got {dim!r}")
    device, length = index.device, None
    checked_shape = checked_dtype = None
    for position, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensors[{position}] must be a tensor, got {type(tensor).__name__}")
        if tensor.is_nested or tensor.layout != torch.strided:
            require_dense(f"tensors[{position}]", tensor)
        if tensor.device != device:
            raise ValueError(
                f"tensors[{position}] must be on the device of index, {device}, got {tensor.device}"
            )
        shape, dtype = tensor.shape, tensor.dtype
        if shape == checked_shape and dtype == checked_dtype:
            continue
        name = f"tensors[{position}]"
        if tensor.is_quantized:
            raise TypeError(f"{name} must not be quantized, got {dtype}")
        if not -len(shape) <= dim < len(shape):
            raise ValueError(f"dim must be a dimension of {name} {list(shape)}, got {dim}")
        length = shape[dim] if length is None else length
        if shape[dim] != length:
            raise ValueError(
                f"{name} must have {length} entries along dim {dim}, got shape {list(shape)}"
            )
        if index.ndim == 2 and (dim % len(shape) == 0 or shape[0] != index.shape[0]):
            raise ValueError(
                f"an index [B, K] needs a dim other than 0 and {index.shape[0]} entries of "
                f"dimension 0 in {name}, "
                f"got dim {dim} and shape {list(shape)}"
            )
        checked_shape, checked_dtype = shape, dtype
    some = tensors if forward_ad._current_level >= 0 else tensors[:1]
    require_untransformed(**{f"tensors[{i}]": tensor for i, tensor in enumerate(some)})
    return tensors


def require_entries(index: Tensor, length: int) -> None:
    """Entries to take exist. Only of an index that the host holds: nobody waits for a device."""
    if index.device.type != "cpu" or not index.numel():
        return
    wrong = (index < 0) | (index >= length)
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"index must be from 0 to {length - 1}, got {int(index[tuple(place)])} at place {place}"
        )


def compacted_shape(tensor: Tensor, index: Tensor, dim: int) -> list[int]:
    """The shape of ``tensor`` with the entries ``index`` along ``dim``."""
    shape = list(tensor.shape)
    shape[dim] = index.shape[-1]
    return shape
