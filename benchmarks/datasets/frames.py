"""The frames of a question's video, as an evaluation takes them.

By the published rules a model gets as many frames as it was evaluated with, so a video that has
fewer repeats some of them.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from prunevid_kernels.adapters.video.reader import Reader, VideoError, read_video, video_error
from prunevid_kernels.adapters.video.sampling import Rule, frame_indices

from .sample import VideoSource


class TakenFrames(NamedTuple):
    """The frames of a question's video that a model family looks at.

    Attributes:
        frames: [count, H, W, 3] uint8.
        reader: what read them: see :class:`..adapters.video.reader.Video`, or ``"generated"``.
        seconds: [count] when each is shown; None without a clock.
    """

    frames: np.ndarray
    reader: str
    seconds: list[float] | None


def take_frames(
    video: VideoSource | np.ndarray, count: int, rule: Rule, reader: Reader = "auto"
) -> TakenFrames:
    """Read what a model family looks at.

    Raises:
        VideoError: the video cannot be read, or ends before the seconds that are asked about.
    """
    if isinstance(video, np.ndarray):
        return TakenFrames(video[frame_indices(len(video), count, rule)], "generated", None)
    first = 0 if video.folder_fps is None else 1  # files of a folder count from 1
    choose = partial(frame_indices, n=count, rule=rule, bound=video.bound_s, first=first)
    try:
        taken = read_video(video.path, indices=choose, folder_fps=video.folder_fps, reader=reader)
        times = taken.timestamps_s
        return TakenFrames(taken.frames, taken.reader, None if times is None else times.tolist())
    except VideoError:
        raise
    except ValueError as error:  # of the bound: everything else is checked before
        raise video_error(video.path, str(error)) from error
