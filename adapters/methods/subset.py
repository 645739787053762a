"""A video of which some tokens were taken as they are: the layout for methods that drop tokens
before the decoder without merging them by time or space."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_kernels import TokenLayout


def subset_layout(num_frames: int, tokens_per_frame: int, taken: Tensor) -> TokenLayout:
    """One segment, nothing static; what is not taken goes nowhere (-1).

    Args:
        num_frames: T.
        tokens_per_frame: N.
        taken: [L] int64, ascending: the flat indices ``t * N + n`` of the tokens taken.
    """
    source = torch.full((num_frames * tokens_per_frame,), -1, device=taken.device)
    source[taken] = torch.arange(len(taken), device=taken.device)
    return TokenLayout.from_sizes(
        torch.tensor([num_frames]),
        torch.tensor([0]),
        torch.bincount(taken.cpu() // tokens_per_frame, minlength=num_frames),
        source_to_merged=source.view(num_frames, tokens_per_frame),
        merged_anchor=taken,
        merged_count=torch.ones_like(taken),
    )
