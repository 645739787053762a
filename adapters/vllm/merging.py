"""One video in, exactly the promised number of tokens out.

The engine has laid out the prompt before any feature exists. One token too few and it fails; one
too many and it silently cuts the last, which is LLaVA-OneVision's newline. So the count is
asserted.
"""

from __future__ import annotations

from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, merge_video


def merge_within(features: Tensor, tokens: int) -> MergedVideo:
    """Merge features [T, N, C] of one video into ``tokens`` tokens [tokens, C] of the same dtype.

    Triton kernels on a GPU, the reference on a CPU. The same on every rank that has the same
    features, and without a wait for the device on a GPU: all shapes follow from ``tokens``.

    Args:
        features: what the text decoder would get without pruning.
        tokens: at most ``T * N``, as :func:`~prunevid_kernels.budget_tokens` counts; with ``T * N``
            the features come back as they are.
    """
    merged = merge_video(features, PruneVidConfig(budget=tokens))
    expected = (tokens, features.shape[-1])
    assert merged.tokens.shape == expected, (
        f"{list(features.shape)} must merge to {list(expected)}, got {list(merged.tokens.shape)}"
    )
    return merged
