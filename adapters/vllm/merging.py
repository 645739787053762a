"""One video in, exactly the promised number of tokens out.

The engine has laid out the prompt before any feature exists. One token too few and it fails; one
too many and it silently cuts the last, which is LLaVA-OneVision's newline. So the count is
asserted.

Features that are not finite cannot be merged by similarity, and an error here would end the engine
for everybody. So such a video becomes NaN as a whole: the request's logits are NaN then, and the
scheduler ends that request (guard/scheduler.py).

:data:`CLOCK` tells how long this process's merges take, once it is asked to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig, TokenLayout, merge_video


class MergeClock:
    """Counts merged videos and the seconds that they take, in one worker. Off until
    :meth:`start`, because most servers have nobody who asks.

    On a CPU it is the time that passes. On a GPU it is the time on the device, between two events
    a video, which nobody waits for before :meth:`read`.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._reset()

    def _reset(self) -> None:
        self._videos = 0
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Count from here on, from zero."""
        self._reset()
        self._is_on = True

    @contextmanager
    def video(self, device: torch.device) -> Iterator[None]:
        """Around all that is done to one video because it is pruned.

        Args:
            device: where its features are.
        """
        if not self._is_on:
            yield
        elif device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            begin_s = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - begin_s
            self._videos += 1

    def read(self) -> tuple[int, float]:
        """Videos and seconds since :meth:`start`; on a GPU it waits for the last of them."""
        events, self._events = self._events, []
        if events:
            events[-1][1].synchronize()
        self._videos += len(events)
        self._seconds += sum(begin.elapsed_time(end) for begin, end in events) / 1000
        return self._videos, self._seconds


CLOCK = MergeClock()


def merge_within(features: Tensor, tokens: int) -> MergedVideo:
    """Merge features [T, N, C] of one video into ``tokens`` tokens [tokens, C] of the same dtype.

    Triton kernels on a GPU, the reference on a CPU. The same on every rank that has the same
    features, and without a wait for the device on a GPU: all shapes follow from ``tokens``.

    Args:
        features: what the text decoder would get without pruning.
        tokens: at most ``T * N``, as :func:`~prunevid_kernels.budget_tokens` counts; with ``T * N``
            the features come back as they are, whatever their size.

    Returns:
        Tokens and layout; the tokens are all NaN if any of the features is not finite.
    """
    if tokens == features.shape[0] * features.shape[1]:
        merged = _unmerged(features)
    else:
        merged = _merged(features, tokens)
    expected = (tokens, features.shape[-1])
    assert merged.tokens.shape == expected, (
        f"{list(features.shape)} must merge to {list(expected)}, got {list(merged.tokens.shape)}"
    )
    return merged


def _merged(features: Tensor, tokens: int) -> MergedVideo:
    config = PruneVidConfig(budget=tokens)
    if features.device.type == "cpu":
        if torch.stack(features.aminmax()).isfinite().all():  # one pass, no mask
            return merge_video(features, config)
        merged = merge_video(torch.zeros_like(features), config)  # for a layout that is one
        return replace(merged, tokens=torch.full_like(merged.tokens, torch.nan))
    merged = merge_video(features, config)
    assert merged.first_bad_frame is not None  # with a budget the kernels always tell
    is_bad = merged.first_bad_frame.lt(features.shape[0])
    return replace(merged, tokens=merged.tokens.masked_fill(is_bad, torch.nan))


def _unmerged(features: Tensor) -> MergedVideo:
    """Every token its own: no kernel, so none of their limits, and nothing to compute."""
    frames, tokens_per_frame, _ = features.shape
    place = torch.arange(frames * tokens_per_frame, device=features.device)
    frame = torch.arange(frames, device=features.device)
    layout = TokenLayout.deferred(
        frame,
        torch.zeros_like(frame),
        torch.full_like(frame, tokens_per_frame),
        source_to_merged=place.view(frames, tokens_per_frame),
        merged_anchor=place,
        merged_count=torch.ones_like(place),
    )
    return MergedVideo(features.flatten(0, 1), layout)
