"""Other features of a merged video's tokens, averaged by the plan that merged them.

A merge is a linear map with decisions inside. Models that carry more than one feature of a visual
token (planes of a vision tower's earlier layers, positions, a mask's weights) have to average all
of them alike; the decisions come from one and stay. The public function, its custom op and its
gradient are here, as the parts of one subject.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_kernels import reference
from prunevid_kernels._validate import (
    Impl,
    require_float_tensor,
    require_no_empty_axis,
    require_untransformed,
    resolve_impl,
)
from prunevid_kernels.custom_ops import is_tracing
from prunevid_kernels.gradients import is_differentiated, spread_means
from prunevid_kernels.layout import TokenLayout


def apply_layout(features: Tensor, layout: TokenLayout, *, impl: Impl = "auto") -> Tensor:
    """Average other features of a video's tokens as its tokens were merged.

    Each merged token gets the mean, in float32, of the source tokens that it stands for.
    Differentiable in the features, the plan is a constant. Nothing waits for the device.

    Args:
        features: [T, N, C'] features of the tokens that ``layout`` tells of, C' of any size;
            float16, bfloat16 or float32, any strides. Values that are not finite make the means
            that they belong to not finite.
        layout: where each token went.
        impl: ``"auto"``, ``"triton"`` or ``"reference"``; see :mod:`prunevid_kernels.ops`.

    Returns:
        [L, C'] in the features' dtype.

    Raises:
        TypeError, ValueError: an argument of a wrong type, shape, dtype or device.
    """
    if not isinstance(layout, TokenLayout):
        raise TypeError(f"layout must be a TokenLayout, got {type(layout).__name__}")
    arguments = (features, layout.source_to_merged, layout.merged_count, impl)
    # Before autograd looks at it, which would fail with an error of its own.
    require_float_tensor("features", features, "T, N, C")
    require_untransformed(features=features)
    if is_tracing() or is_differentiated(features):
        means: Tensor = torch.ops.prunevid.apply_layout(*arguments)
        return means
    return _apply_layout(*arguments)


def _apply_layout(
    features: Tensor, source_to_merged: Tensor, merged_count: Tensor, impl: Impl = "auto"
) -> Tensor:
    _check(features, source_to_merged, merged_count)
    if resolve_impl(impl, features) == "reference":
        return reference.average_sources(features, source_to_merged, merged_count)
    from prunevid_kernels.kernels.means.layout_mean import layout_mean

    with torch.cuda.device_of(features):
        return layout_mean(features, source_to_merged, merged_count)


def _check(features: Tensor, source_to_merged: Tensor, merged_count: Tensor) -> None:
    require_float_tensor("features", features, "T, N, C")
    require_no_empty_axis("features", features, "T, N, C")
    for name, value, axes in (
        ("source_to_merged", source_to_merged, "T, N"),
        ("merged_count", merged_count, "L"),
    ):
        if value.dtype != torch.int64 or value.ndim != axes.count(",") + 1:
            raise ValueError(
                f"{name} must be int64 [{axes}], got {value.dtype} {list(value.shape)}"
            )
        require_no_empty_axis(name, value, axes)
        if value.device != features.device:
            raise ValueError(
                f"features must be on the device of the layout, {value.device}, "
                f"got {features.device}"
            )
    if features.shape[:2] != source_to_merged.shape:
        raise ValueError(
            f"features must be [T, N, C] with the layout's {source_to_merged.shape[0]} frames of "
            f"{source_to_merged.shape[1]} tokens, got shape {list(features.shape)}"
        )


torch.library.custom_op(
    "prunevid::apply_layout",
    _apply_layout,
    mutates_args=(),
    schema="(Tensor features, Tensor source_to_merged, Tensor merged_count, str impl='auto') "
    "-> Tensor",
)


@torch.library.register_fake("prunevid::apply_layout")
def _(
    features: Tensor, source_to_merged: Tensor, merged_count: Tensor, impl: Impl = "auto"
) -> Tensor:
    _check(features, source_to_merged, merged_count)
    return features.new_empty((merged_count.shape[0], features.shape[2]))


def _keep_plan(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _backward(ctx: Any, grad_means: Tensor) -> tuple[Tensor | None, ...]:
    return spread_means(grad_means, *ctx.saved_tensors), None, None, None


torch.library.register_autograd("prunevid::apply_layout", _backward, setup_context=_keep_plan)
