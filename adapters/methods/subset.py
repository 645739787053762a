"""A video of which some tokens stay in the places they had: the layout for methods that drop tokens
before the decoder, or merge them into some of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, TokenLayout


def subset_layout(
    num_frames: int, tokens_per_frame: int, taken: Tensor, source: Tensor | None = None
) -> TokenLayout:
    """One segment, nothing static; what is not taken goes nowhere (-1).

    Args:
        num_frames: T.
        tokens_per_frame: N.
        taken: [L] int64, ascending: the flat indices ``t * N + n`` of the tokens taken.
        source: [T, N] int64, which of them each token was merged into, -1 for none; default: each
            taken token stands for itself alone.
    """
    if source is None:
        source = torch.full((num_frames * tokens_per_frame,), -1, device=taken.device)
        source[taken] = torch.arange(len(taken), device=taken.device)
        counts = torch.ones_like(taken)
    else:
        # A token that is merged into several is recorded once, so of some nothing may be recorded.
        counts = torch.bincount(source.flatten() + 1, minlength=len(taken) + 1)[1:].clamp(min=1)
    return TokenLayout.from_sizes(
        torch.tensor([num_frames], device="cpu"),
        torch.tensor([0], device="cpu"),
        torch.bincount(taken.cpu() // tokens_per_frame, minlength=num_frames),
        source_to_merged=source.view(num_frames, tokens_per_frame),
        merged_anchor=taken,
        merged_count=counts,
    )


def subset_video(features: Tensor, taken: Tensor) -> MergedVideo:
    """The video [T, N, C] with the tokens ``taken`` [L], see :func:`subset_layout`, as they are."""
    frames, width, _ = features.shape
    layout = subset_layout(frames, width, taken)
    return MergedVideo(features.flatten(0, 1)[taken], layout, first_bad_frame(features))


def first_bad_frame(features: Tensor) -> Tensor:
    """0-d int32: the first frame of [T, N, C] that holds a NaN or an infinity, T where none does.

    The engine raises on it once the prompt is on its way, so that the check waits for no device.
    """
    is_bad = ~features.isfinite().flatten(1).all(dim=1)
    found = torch.cat((is_bad, is_bad.new_ones(1)))
    return found.int().argmax().int()
