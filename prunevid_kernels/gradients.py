"""Gradients of the merge's means and of the gather, with every decision held constant.

A merged token is the mean of its sources, so each source gets its token's gradient divided by their
number, and a token that was dropped gets none. Which source belongs to which token is decided by
comparisons, whose gradient is zero wherever there is one: the plan is a constant. So one backward
serves both implementations, and the clustering leaves nothing on the tape. Scoring and selection
decide and do nothing else; they refuse tensors that require a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_kernels.layout import TokenLayout


def spread_means(grad_tokens: Tensor, source_to_merged: Tensor, merged_count: Tensor) -> Tensor:
    """The gradient [T, N, C] of a video's features from that of its merged tokens [L, C]."""
    floats = torch.promote_types(grad_tokens.dtype, torch.float32)
    shares = grad_tokens.to(floats) / merged_count[:, None]
    is_kept = source_to_merged >= 0
    gradient = shares[source_to_merged.clamp(min=0)]
    return torch.where(is_kept[..., None], gradient, 0.0).to(grad_tokens.dtype)


class _MergedMeans(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, tokens: Tensor, source_to_merged: Tensor, merged_count: Tensor
    ) -> Tensor:
        ctx.save_for_backward(source_to_merged, merged_count)
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, grad_tokens: Tensor) -> tuple[Tensor | None, ...]:
        return spread_means(grad_tokens, *ctx.saved_tensors), None, None, None


def with_gradient(features: Tensor, tokens: Tensor, layout: TokenLayout) -> Tensor:
    """Merged tokens [L, C] that were computed without a gradient, as a function of the features
    [T, N, C]."""
    result: Tensor = _MergedMeans.apply(
        features, tokens, layout.source_to_merged, layout.merged_count
    )
    return result


def spread_entries(gradient: Tensor, shape: torch.Size, index: Tensor, dim: int) -> Tensor:
    """The gradient of a tensor of ``shape`` from that of its entries ``index`` along ``dim``."""
    spread = gradient.new_zeros(shape)
    if index.ndim == 1:
        return spread.index_add_(dim, index, gradient)
    by_dim = [1] * len(shape)
    by_dim[0], by_dim[dim] = index.shape
    return spread.scatter_add_(dim, index.view(by_dim).expand_as(gradient), gradient)


def is_differentiated(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()
