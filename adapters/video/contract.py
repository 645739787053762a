"""What reading a video promises: its result, its errors, and how frames are chosen.

The readers of files (decord, PyAV) and of folders of images share these, and nothing else.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from .sampling import sample_indices

Reader = Literal["auto", "decord", "pyav"]
# 8 bit RGB of one frame has to fit into memory beside the decoder's own copies; 8K video has 33
# million pixels, 16K video 133 million.
MAX_PIXELS = 150_000_000


class VideoError(ValueError):
    """A video that cannot be read; the message is one line and names the file."""


@dataclass(frozen=True)
class Video:
    """Sampled frames of one video.

    Attributes:
        frames: [T, H, W, 3] uint8, RGB.
        indices: [T] int64, the frame of the source that each one is.
        timestamps_s: [T] float64, seconds since the first frame of the source; None where the
            source has no clock (a folder of images of which no fps was given).
        fps: average frames a second of the source; None where it has no clock.
        total_frames: frames of the source that a player shows. Below the number asked for, all of
            them were taken.
        source: the file or folder.
        reader: what read it: ``"decord"``, ``"pyav"``, or ``"images"`` for a folder.
        reader_reason: why ``"auto"`` did not take decord; None where it did, and where the caller
            chose.
    """

    frames: np.ndarray
    indices: np.ndarray
    timestamps_s: np.ndarray | None
    fps: float | None
    total_frames: int
    source: Path
    reader: Literal["decord", "pyav", "images"]
    reader_reason: str | None = None


class IndexRule(Protocol):
    """Chooses frames: :func:`~.sampling.frame_indices` with ``n`` and ``rule`` given by
    ``functools.partial``, for example."""

    def __call__(self, total: int, *, fps: float | None) -> np.ndarray:
        """[T] int64 in [0, total), ascending; repeats are fine. ``fps`` is None without a clock."""


@dataclass(frozen=True)
class Choice:
    """Which frames of a source are wanted: so many, or by a rule."""

    num_frames: int | None
    rule: IndexRule | None

    def __call__(self, total: int, fps: float | None) -> np.ndarray:
        """The indices in a source of ``total`` frames, [T] int64 ascending.

        Raises:
            ValueError: what the rule raises, or gives and is not as it should be.
        """
        if self.rule is None:
            assert self.num_frames is not None
            return sample_indices(total, self.num_frames)
        chosen = np.asarray(self.rule(total, fps=fps))
        count = self.num_frames or len(chosen)
        is_valid = chosen.shape == (count,) and count > 0 and chosen.dtype.kind == "i"
        if not is_valid or chosen[0] < 0 or chosen[-1] >= total or (np.diff(chosen) < 0).any():
            raise ValueError(
                f"indices must be {count} ascending integers in [0, {total}), got {chosen}"
            )
        return chosen.astype(np.int64)


def require_source(source: str | Path) -> Path:
    """The path of a file or folder that :func:`~.reader.read_video` can try.

    Raises:
        VideoError: there is none.
    """
    path = Path(source)
    if source == "":  # which Path takes for the working directory
        raise VideoError("the video's path is empty")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise video_error(path, "no such file") from error
    except (OSError, ValueError) as error:  # ValueError: characters that no file system has
        reason = error.strerror if isinstance(error, OSError) else "not the name of a file"
        raise video_error(path, f"cannot be read: {reason}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise video_error(path, "neither a file nor a folder")
    return path


def video_error(path: Path, what: str) -> VideoError:
    """The error about a path, of which endless ones are shortened."""
    name = path_text(path)
    if len(name) > 400:
        name = f"{name[:100]}...{name[-200:]}"
    return VideoError(f"{name}: {what}")


def path_text(path: Path) -> str:
    """A path as text that can be printed and written anywhere: control characters and bytes that
    are no UTF-8 are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def one_line(error: BaseException) -> str:
    """The first line of a decoder's message, without decord's source location and without the
    path that PyAV adds."""
    strerror = getattr(error, "strerror", None)
    lines = str(strerror or error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", lines[0])
