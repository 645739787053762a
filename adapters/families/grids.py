"""What models with videos of any resolution and rotary positions of three axes have in common.

A video is a grid of T x h x w tokens, which differs from video to video of a batch. Images and
videos have runs of their placeholder in the prompt; whether a video is one run or a run a frame is
the family's. ``generate`` of newer transformers versions encodes first and drops the grids, so a
video's tokens are counted in its encoded form, and its frames in the positions that it was given.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ..engine.interface import ModelAdapter, PromptVisuals, VideoSpan, VisionAttention
from .placeholders import (
    Run,
    by_row,
    core_of,
    features_in,
    ids_in,
    require_whole,
    runs_of,
    vision_calls_of,
)
from .record import FRAMES_OF_ANY_SIZE


class GridAdapter(ModelAdapter):
    """A model whose core has ``visual`` and ``language_model``."""

    positions: Literal["renumber", "keep"] = "keep"
    position_axes = 3

    def decoder(self, model: nn.Module) -> nn.Module:
        return core_of(model).language_model

    def entries(self, model: nn.Module) -> Sequence[nn.Module]:
        core = core_of(model)
        return [model] if core is model else [model, core]

    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        return any(features_in(inputs, kind) is not None for kind in ("image", "video"))

    def video_token_id(self, model: nn.Module) -> int:
        config: Any = model.config
        return config.video_token_id

    def vision_calls(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        return vision_calls_of(model)

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        ids, config = ids_in(inputs), core_of(model).config
        images = by_row(runs_of(ids == config.image_token_id), len(ids))
        videos: list[list[VideoSpan]] = [[] for _ in ids]
        runs = runs_of(ids == config.video_token_id)
        if features_in(inputs, "video") is None:
            if runs:
                raise ValueError(
                    "the prompts have video tokens, but images alone came with them; pass "
                    "pixel_values_videos and video_grid_thw"
                )
        else:
            for row, span in self.spans(runs, self.lengths(config, inputs), inputs):
                videos[row].append(span)
        return [
            PromptVisuals(videos=tuple(own), images=own_images)
            for own, own_images in zip(videos, images, strict=True)
        ]

    def vision_attention(self, model: nn.Module) -> VisionAttention:
        """There is none: the tower runs on the patches of all frames in one row, whatever their
        grids, and rotates queries and keys after their projections.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{type(model).__name__} has no attention on its vision side that could rank its "
            f"tokens: {FRAMES_OF_ANY_SIZE['tower']}"
        )

    def frame_grid(self, model: nn.Module) -> tuple[int, int]:
        """It differs from video to video.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{type(model).__name__} has no one grid in which the tokens of a frame lie: "
            f"{FRAMES_OF_ANY_SIZE['grid']}"
        )

    def lengths(self, config: Any, inputs: Mapping[str, Any]) -> list[int]:
        """Tokens of each video of a batch; see :func:`video_lengths`."""
        return video_lengths(config, inputs)

    @abstractmethod
    def spans(
        self, runs: list[Run], lengths: list[int], inputs: Mapping[str, Any]
    ) -> list[tuple[int, VideoSpan]]:
        """The row and the place of each video.

        Args:
            runs: of video placeholders.
            lengths: tokens of each video of the batch.
            inputs: arguments of the call.

        Raises:
            ValueError: the runs do not fit the videos.
        """


def video_lengths(config: Any, inputs: Mapping[str, Any]) -> list[int]:
    """Tokens of each video of a batch that the decoder gets.

    Raises:
        ValueError: nothing tells them.
    """
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("video")
    if encoded is not None:
        require_whole(encoded)
        return [len(features) for features in encoded.pooler_output]
    grid = inputs.get("video_grid_thw")
    if grid is None:
        raise ValueError("pixel_values_videos came without video_grid_thw, the videos' sizes")
    return (grid.prod(dim=-1) // config.vision_config.spatial_merge_size**2).tolist()


def one_run_each(
    runs: list[Run], lengths: list[int], inputs: Mapping[str, Any]
) -> list[tuple[int, VideoSpan]]:
    """:meth:`GridAdapter.spans` where every video is one run, frame by frame."""
    found = [stop - start for _, start, stop in runs]
    if found != lengths:
        raise ValueError(
            f"the prompts have runs of {found} video tokens, the videos have {lengths}"
        )
    grid = inputs.get("video_grid_thw")
    counts = _frames_by_position(runs, inputs) if grid is None else grid[:, 0].tolist()
    spans = []
    for (row, start, stop), frames in zip(runs, counts, strict=True):
        if (stop - start) % frames:
            raise ValueError(f"{stop - start} video tokens are no multiple of {frames} frames")
        spans.append((row, VideoSpan(start, frames, (stop - start) // frames)))
    return spans


def one_run_a_frame(
    runs: list[Run], lengths: list[int], inputs: Mapping[str, Any]
) -> list[tuple[int, VideoSpan]]:
    """:meth:`GridAdapter.spans` where every frame is a run, all frames of a video equally long."""
    spans, taken = [], 0
    for length in lengths:
        width = runs[taken][2] - runs[taken][1] if taken < len(runs) else 0
        frames = length // width if width else 0
        own = runs[taken : taken + frames]
        sizes = {stop - start for _, start, stop in own}
        if sizes != {width} or len(own) * width != length or len({row for row, *_ in own}) != 1:
            raise ValueError(
                f"a video has {length} tokens, which its prompt must have in runs of equal length, "
                f"one for each frame; got {[stop - start for _, start, stop in runs[taken:]]}"
            )
        spans.append((own[0][0], VideoSpan.apart([start for _, start, _ in own], width)))
        taken += frames
    if taken < len(runs):
        raise ValueError(
            f"the prompts have {len(runs)} frames of video tokens, the videos have {taken}"
        )
    # Where generate encodes first, the grid is gone by now, and the prompt's word is taken.
    grid, counts = inputs.get("video_grid_thw"), [span.num_frames for _, span in spans]
    if grid is not None and counts != grid[:, 0].tolist():
        raise ValueError(
            f"the prompts have runs of video tokens for videos of {counts} frames, the videos have "
            f"{grid[:, 0].tolist()}: one run a frame"
        )
    return spans


def _frames_by_position(runs: list[Run], inputs: Mapping[str, Any]) -> list[int]:
    """The frames of each video: a new one begins where the rows start again from above.

    The axis of time does not tell: where frames are close, two of them have the same integer.
    """
    positions = inputs.get("position_ids")
    if positions is None or positions.ndim != 3 or len(positions) < 3:
        raise ValueError(
            "encoded videos came without their grid: pass video_grid_thw, or position_ids of three "
            "axes, to tell how many frames they have"
        )
    places = positions[-2:].cpu()  # height and width
    return [_frames_of(*places[:, row, start:stop]) for row, start, stop in runs]


def _frames_of(height: Tensor, width: Tensor) -> int:
    """The frames of one video, from its tokens' heights and widths."""
    for axis in (height, width):
        if (axis != axis[0]).any():  # one row of patches: the columns start again
            return 1 + int((axis.diff() < 0).sum())
    return len(height)  # one patch: every token is a frame
