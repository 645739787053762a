"""How the reference computes: in which dtype, how many frames at once, and its look for values that
are not finite.

It takes as many frames at once as stay in the cache together. A call of an operator costs
microseconds, which is most of the time where frames are small; where they are large, a pass over
more than the cache holds costs more than the calls, and frames go one by one. Either way gives the
same bits: operators see to each position of a frame by itself, and what is added up over frames is
added frame by frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

CACHED_VALUES = 2**17  # half a MiB in float32
CACHED_PAIRS = CACHED_VALUES // 2  # several values each are held


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which decisions are made for features of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def in_parts(frames: Tensor) -> tuple[Tensor, ...]:
    """Frames [T, N, C] in parts [P, N, C] of :data:`CACHED_VALUES`, one frame at least."""
    return frames.split(max(1, CACHED_VALUES // max(1, frames[0].numel())))


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
