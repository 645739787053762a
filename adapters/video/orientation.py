"""Frames as they are shown: the turn or mirror image that a file asks for.

Cameras store what the sensor sees and note how they were held. MP4 and MOV note it as a matrix,
which is applied here; images note it in EXIF, which Pillow applies.
"""

from __future__ import annotations

import struct

import numpy as np

# Of the largest entry: what is below counts as zero.
_NEARLY_ZERO = 0.01


class OrientationError(ValueError):
    """A matrix that is no quarter turn or mirror image."""


def is_upright(matrix: bytes | None) -> bool:
    """Whether frames are shown as they are stored.

    Raises:
        OrientationError: see :func:`shown_upright`.
    """
    return matrix is None or _turn(matrix) == (False, False, False)


def shown_upright(frame: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """A frame turned and mirrored as its display matrix says.

    Args:
        frame: [H, W, 3].
        matrix: a, b, u, c, d, v, x, y, w as native int32 (ISO/IEC 14496-12, 6.2.2): the pixel at
            (p, q), right and down, is shown at (a p + c q + x, b p + d q + y). None: as it is.

    Returns:
        [H, W, 3] or [W, H, 3], C-contiguous.

    Raises:
        OrientationError: another matrix than those eight.
    """
    if matrix is not None:
        transposed, left_right, up_down = _turn(matrix)
        if transposed:
            frame = frame.transpose(1, 0, 2)
        if left_right:
            frame = frame[:, ::-1]
        if up_down:
            frame = frame[::-1]
    return np.ascontiguousarray(frame)


def _turn(matrix: bytes) -> tuple[bool, bool, bool]:
    """Whether to transpose, then to flip from left to right, then upside down."""
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    limit = _NEARLY_ZERO * max(abs(a), abs(b), abs(c), abs(d))
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if straight > limit and max(abs(b), abs(c)) <= limit:
        return False, a < 0, d < 0
    if crossed > limit and max(abs(a), abs(d)) <= limit:
        return True, c < 0, b < 0
    raise OrientationError("its display matrix is no quarter turn or mirror image")
