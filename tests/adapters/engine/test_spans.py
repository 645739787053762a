"""What a caller says of a video's place is checked where it is said."""

from __future__ import annotations

import pytest

from prunevid_kernels.adapters import VideoSpan


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        pytest.param((4.0, 4, 8), TypeError, "start must be an integer, got 4.0", id="float"),
        pytest.param((4, True, 8), TypeError, "num_frames must be an integer", id="bool"),
        pytest.param((4, -2, -4), ValueError, "not be negative, got -2 and -4", id="negative"),
    ],
)
def test_a_place_that_is_none_is_named(place, error, message):
    with pytest.raises(error, match=message):
        VideoSpan(*place)


def test_frames_apart_need_one_frame():
    with pytest.raises(ValueError, match="one frame at least, got none"):
        VideoSpan.apart([], 8)
