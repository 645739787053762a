"""The dtype in which the reference decides, and its look for values that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which decisions are made for features of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def first_nonfinite_frame(features: Tensor) -> int | None:
    """The first frame of features [T, N, C] that holds a NaN or an infinity."""
    if all_finite(features):
        return None
    bad_frames = (~features.isfinite().flatten(1).all(dim=1)).nonzero()
    return int(bad_frames[0])


def all_finite(values: Tensor) -> bool:
    """Whether no value is a NaN or an infinity, from one pass and without a mask."""
    return bool(torch.stack(values.detach().aminmax()).isfinite().all())


def nonfinite_error(video: int, frame: int) -> ValueError:
    return ValueError(
        f"features must be finite: video {video}, frame {frame} holds a NaN or an infinity"
    )
