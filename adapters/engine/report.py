"""What a pruned model did, call by call: the answer to "was anything pruned at all?".

Silent no-ops are the most reported failure of token pruning, so every prompt leaves a record here,
the ones that were passed through untouched included. Records hold tensors on the device they were
made on; reading a time is what waits for a GPU, never making the record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from prunevid_kernels import TokenLayout

CallKind = Literal["pruned", "text-only", "image-only"]
Stage = Literal["merge", "score", "gather"]


class NothingPrunedWarning(UserWarning):
    """A pruned model ran and not one token was dropped."""


class NothingKeptWarning(UserWarning):
    """Not one token of a video was kept: the answer is given without it."""


class StageTimer:
    """Time spent in each stage of one call: wall clock on a CPU, events on a GPU.

    A GPU runs asynchronously, so two events a stage are recorded in its stream and read, after
    waiting for them, only when somebody asks.
    """

    def __init__(self) -> None:
        self._seconds: dict[Stage, float] = {}
        self._events: list[tuple[Stage, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, stage: Stage, device: torch.device) -> Iterator[None]:
        """Add the time of the ``with`` block to ``stage``."""
        if device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(torch.cuda.current_stream(device))
            yield
            stop.record(torch.cuda.current_stream(device))
            self._events.append((stage, start, stop))
        else:
            start_seconds = time.perf_counter()
            yield
            self._add(stage, time.perf_counter() - start_seconds)

    def seconds(self, stage: Stage) -> float:
        """Total of a stage; waits for the GPU where one was used."""
        for name, start, stop in self._events:
            stop.synchronize()
            self._add(name, start.elapsed_time(stop) / 1000)
        self._events.clear()
        return self._seconds.get(stage, 0.0)

    def _add(self, stage: Stage, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds


@dataclass(frozen=True)
class VideoRecord:
    """One video of a prompt.

    Attributes:
        prompt: row of the batch.
        span: first position and the one after the last of the video's tokens in that row, as the
            caller gave it.
        layout: where each of the tokens went in the merge.
        scores: [tokens_merged] float32, the most attention any question row pays to each merged
            token; None where nothing was selected (``select=False``).
        kept: [tokens_kept] int64, ascending: the merged tokens that survive the selection.
    """

    prompt: int
    span: tuple[int, int]
    layout: TokenLayout
    scores: Tensor | None
    kept: Tensor

    @property
    def tokens_before(self) -> int:
        return self.layout.num_frames * self.layout.tokens_per_frame

    @property
    def tokens_merged(self) -> int:
        return self.layout.num_merged

    @property
    def tokens_kept(self) -> int:
        return len(self.kept)


@dataclass(frozen=True)
class PruneCall:
    """One prompt forward, a batch of prompts.

    Attributes:
        kind: ``"pruned"`` (at least one video), or what the prompts held instead.
        num_layers: decoder layers.
        layer: the selection ran at the end of this 0-based layer; None if there was none.
        videos: in the order of the batch, and of their place in each prompt.
        other_tokens: for each prompt, its tokens that are of no video: text, separators, images.
        image_tokens: for each prompt, its tokens that are of images, which are never pruned.
        cached_tokens: for each prompt, the entries that each layer's cache holds of it; empty where
            there was no cache, or no video.
        method: name of the pruning method.
    """

    kind: CallKind
    num_layers: int
    layer: int | None
    videos: tuple[VideoRecord, ...]
    other_tokens: tuple[int, ...]
    image_tokens: tuple[int, ...]
    cached_tokens: tuple[tuple[int, ...], ...] = ()
    method: str = "prunevid"
    timer: StageTimer = field(default_factory=StageTimer, repr=False)

    @classmethod
    def passed_through(
        cls, method: str, num_layers: int, length: int, image_tokens: tuple[int, ...]
    ) -> PruneCall:
        """The record of prompts without a video.

        Args:
            method: name of the pruning method.
            num_layers: decoder layers.
            length: of the prompts, padding included.
            image_tokens: for each prompt, its tokens that are of images.
        """
        return cls(
            kind="image-only" if any(image_tokens) else "text-only",
            num_layers=num_layers,
            layer=None,
            videos=(),
            other_tokens=(length,) * len(image_tokens),
            image_tokens=image_tokens,
            method=method,
        )

    @property
    def tokens_before(self) -> int:
        return sum(video.tokens_before for video in self.videos)

    @property
    def tokens_merged(self) -> int:
        return sum(video.tokens_merged for video in self.videos)

    @property
    def tokens_kept(self) -> int:
        return sum(video.tokens_kept for video in self.videos)

    @property
    def retained_ratio_per_layer(self) -> list[float]:
        """For each decoder layer, the share of the videos' tokens that it runs on (1.0 without a
        video)."""
        if not self.videos:
            return [1.0] * self.num_layers
        merged = self.tokens_merged / self.tokens_before
        kept = self.tokens_kept / self.tokens_before
        return [merged] * self.merged_layers + [kept] * (self.num_layers - self.merged_layers)

    @property
    def merged_layers(self) -> int:
        """Decoder layers that run on all merged tokens; those after them run on the kept ones."""
        return self.num_layers if self.layer is None else self.layer + 1

    def visual_tokens_per_layer(self, prompt: int = 0) -> list[int]:
        """The videos' tokens of one prompt that each decoder layer runs on."""
        videos = [video for video in self.videos if video.prompt == prompt]
        merged = sum(video.tokens_merged for video in videos)
        kept = sum(video.tokens_kept for video in videos)
        return [merged] * self.merged_layers + [kept] * (self.num_layers - self.merged_layers)

    @property
    def has_pruned(self) -> bool:
        """Whether any layer runs on fewer tokens, or holds fewer, than it would without pruning."""
        return self.tokens_kept < self.tokens_before or self.cached_ratio < 1.0

    @property
    def cached_ratio(self) -> float:
        """Entries of all layers' caches, as a share of those of the prompts unpruned (1.0 where
        nothing is known of a cache)."""
        if not self.cached_tokens:
            return 1.0
        unpruned = self.num_layers * (self.tokens_before + sum(self.other_tokens))
        return sum(map(sum, self.cached_tokens)) / unpruned

    @property
    def merge_seconds(self) -> float:
        return self.timer.seconds("merge")

    @property
    def score_seconds(self) -> float:
        """Scoring and top-k."""
        return self.timer.seconds("score")

    @property
    def gather_seconds(self) -> float:
        """Gathering hidden states and caches."""
        return self.timer.seconds("gather")

    def __str__(self) -> str:
        prompts = f"{len(self.other_tokens)} prompt{'s' if len(self.other_tokens) != 1 else ''}"
        images = sum(self.image_tokens)
        untouched = f", {images} image tokens untouched" if images else ""
        if self.kind != "pruned":
            return f"{self.kind}, passed through ({prompts}{untouched})"
        before, merged, kept = self.tokens_before, self.tokens_merged, self.tokens_kept
        where = "no selection" if self.layer is None else f"after layer {self.layer}"
        return (
            f"{len(self.videos)} video(s) in {prompts}{untouched}: {before} visual tokens -> "
            f"{merged} merged ({merged / before:.1%}) -> {kept} kept ({kept / before:.1%}, "
            f"{where} of {self.num_layers}), cache {self.cached_ratio:.1%}; "
            f"merge {self.merge_seconds * 1e3:.2f} ms, scoring {self.score_seconds * 1e3:.2f} ms, "
            f"gather {self.gather_seconds * 1e3:.2f} ms"
        )


@dataclass
class PruneReport:
    """The calls of a pruned model, oldest first; ``str(report)`` has a line for each.

    Records keep their tensors alive; a long run calls :meth:`clear` between samples.
    """

    calls: list[PruneCall] = field(default_factory=list)

    @property
    def pruned_calls(self) -> list[PruneCall]:
        return [call for call in self.calls if call.kind == "pruned"]

    @property
    def last(self) -> PruneCall:
        """The latest call.

        Raises:
            ValueError: there was none.
        """
        if not self.calls:
            raise ValueError("the report is empty: the pruned model was not called")
        return self.calls[-1]

    def clear(self) -> None:
        self.calls.clear()

    def __str__(self) -> str:
        if not self.calls:
            return "no call"
        return "\n".join(f"call {index}: {call}" for index, call in enumerate(self.calls))
