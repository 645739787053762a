"""What is not text in a prompt, as adapters and callers say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VideoSpan:
    """The tokens of one video in a prompt, frame by frame.

    Attributes:
        start: position of its first token.
        num_frames: T.
        tokens_per_frame: N.
        frame_starts: position of the first token of each frame, where frames stand apart with text
            between them (their timestamps); None: the ``T * N`` tokens stand in one run. The text
            between frames belongs to the video: it is neither pruned nor part of a question.

    Raises:
        TypeError: numbers that are no integers.
        ValueError: negative sizes; frames that overlap or are not in order.
    """

    start: int
    num_frames: int
    tokens_per_frame: int
    frame_starts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("start", "num_frames", "tokens_per_frame"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, got {value!r:.80}")
        if self.num_frames < 0 or self.tokens_per_frame < 0:
            raise ValueError(
                "num_frames and tokens_per_frame must not be negative, got "
                f"{self.num_frames} and {self.tokens_per_frame}"
            )
        starts = self.frame_starts
        if starts is None:
            return
        width = self.tokens_per_frame
        is_apart = all(b >= a + width for a, b in zip(starts, starts[1:], strict=False))
        if len(starts) != self.num_frames or starts[:1] != (self.start,) or not is_apart:
            raise ValueError(
                f"frame_starts must be the places of {self.num_frames} frames of {width} tokens, "
                f"from {self.start} on, in order and without overlap, got {starts}"
            )

    @classmethod
    def apart(cls, frame_starts: Sequence[int], tokens_per_frame: int) -> VideoSpan:
        """A video whose frames stand apart.

        Args:
            frame_starts: position of the first token of each frame, ascending.
            tokens_per_frame: N.
        """
        for name, value in (
            *(("frame_starts", start) for start in frame_starts),
            ("tokens_per_frame", tokens_per_frame),
        ):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be integers, got {value!r:.80}")
        starts = tuple(frame_starts)
        if not starts:
            raise ValueError("frame_starts must have the place of one frame at least, got none")
        return cls(starts[0], len(starts), tokens_per_frame, starts)

    @property
    def num_tokens(self) -> int:
        """The video's own tokens: T * N."""
        return self.num_frames * self.tokens_per_frame

    @property
    def stop(self) -> int:
        """Position after its last token."""
        if self.frame_starts is None:
            return self.start + self.num_tokens
        return self.frame_starts[-1] + self.tokens_per_frame

    @property
    def between(self) -> list[int]:
        """Positions of the text between frames."""
        if self.frame_starts is None:
            return []
        stops = (start + self.tokens_per_frame for start in self.frame_starts)
        return [
            position
            for stop, start in zip(stops, self.frame_starts[1:], strict=False)
            for position in range(stop, start)
        ]

    def places(self, tokens: Tensor) -> Tensor:
        """The positions in the prompt of some of the video's tokens.

        Args:
            tokens: int64 flat indices ``t * N + n``, of any shape.
        """
        if self.frame_starts is None:
            return self.start + tokens
        starts = torch.tensor(self.frame_starts, device=tokens.device)
        width = self.tokens_per_frame
        return starts[tokens.div(width, rounding_mode="floor")] + tokens % width

    def take(self, embeds: Tensor) -> Tensor:
        """[T, N, C] the video's features among those of its prompt [S, C]."""
        size = (self.num_frames, self.tokens_per_frame)
        if self.frame_starts is None:
            return embeds[self.start : self.stop].unflatten(0, size)
        return embeds[self.places(torch.arange(self.num_tokens, device=embeds.device).view(size))]


@dataclass(frozen=True)
class PromptVisuals:
    """What is not text in one prompt of a batch; positions count from the first token of the
    forward call, padding included.

    Attributes:
        videos: the spans to prune, in order.
        images: (start, stop) of image tokens, which are neither pruned nor question rows.
        separators: (start, stop) of other tokens that are neither, such as a newline embedding
            after a video.
    """

    videos: tuple[VideoSpan, ...] = ()
    images: tuple[tuple[int, int], ...] = ()
    separators: tuple[tuple[int, int], ...] = ()


def require_visuals(prompts: object) -> list[PromptVisuals]:
    """What a caller says of each prompt of a batch.

    Raises:
        TypeError: something else than a sequence of :class:`PromptVisuals` that hold
            :class:`VideoSpan`.
    """
    if not isinstance(prompts, (list, tuple)):
        raise TypeError(
            "videos must be a list of PromptVisuals, one for each prompt, got "
            f"{type(prompts).__name__}"
        )
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, PromptVisuals):
            raise TypeError(f"videos[{row}] must be a PromptVisuals, got {type(prompt).__name__}")
        for span in prompt.videos:
            if not isinstance(span, VideoSpan):
                raise TypeError(
                    f"videos[{row}].videos must hold VideoSpan, got {type(span).__name__}"
                )
    return list(prompts)


def videos_among(
    found: Sequence[PromptVisuals], said: Sequence[PromptVisuals]
) -> list[PromptVisuals]:
    """Tell videos from images where visual tokens are the same for both.

    Args:
        found: of each prompt, all visual tokens as images.
        said: of each prompt, its videos, as the caller announced them.

    Returns:
        The announced videos; what is left of the images.

    Raises:
        ValueError: a video where there are no visual tokens.
    """
    prompts = []
    for row, (own, announced) in enumerate(zip(found, said, strict=True)):
        free = {place for start, stop in own.images for place in range(start, stop)}
        for video in announced.videos:
            between = set(video.between)
            places = {p for p in range(video.start, video.stop) if p not in between}
            width = video.tokens_per_frame
            is_split = video.frame_starts is not None and not (
                {(start, start + width) for start in video.frame_starts} <= {*own.images}
            )
            if is_split or not places <= free:
                raise ValueError(
                    f"a video was announced at [{video.start}, {video.stop}) of prompt {row}, in "
                    f"{video.num_frames} frames of {video.tokens_per_frame} tokens, which is not "
                    f"where its visual tokens are: {_shortened(own.images)}"
                )
            free -= places
        images = tuple(span for span in own.images if span[0] in free)
        rest = sum(stop - start for start, stop in images)
        if rest != len(free):
            raise ValueError(
                f"a video was announced that covers a part of the visual tokens at "
                f"{_shortened(own.images)} of prompt {row}; frames and images must not share a run"
            )
        prompts.append(PromptVisuals(announced.videos, images, announced.separators))
    return prompts


def _shortened(spans: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(f"[{start}, {stop})" for start, stop in spans[:4])
    return f"{shown}, ..." if len(spans) > 4 else shown or "nowhere"
