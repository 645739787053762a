"""Compile before a request needs it.

Triton compiles a kernel when it first meets a variant of its arguments, about a second each. What
makes a variant is the model's: its tokens a frame, channels, heads and dtype, a budget or none, and
the power of 2 that the frames of a video or the videos of a batch reach. The budget and the
question's length make none, so a few calls on videos of zeros, which are made here, compile all
that requests to that model will use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prunevid_kernels import pipeline
from prunevid_kernels._validate import FLOAT_DTYPES, as_list, require_lengths
from prunevid_kernels.config import PruneVidConfig, budget_tokens
from prunevid_kernels.ops import compact, require_config, score_visual_tokens
from prunevid_kernels.planes import apply_layout


def warm_up(
    shapes: Sequence[tuple[int, int, int]],
    config: PruneVidConfig,
    *,
    videos: int = 1,
    attention: Sequence[tuple[int, int, int]] = (),
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cuda",
) -> None:
    """Compile and load the kernels for videos of these shapes, so that no request waits for it.

    Each shape is merged, alone and in batches, and its plan applied to features of as many
    channels; each attention shape scores under every mask that a
    caller can ask for, and caches of its keys are compacted. The device's memory has to hold the
    largest shape beside what is there. A config with a budget and one without use other variants.

    Args:
        shapes: T, N, C of videos. N and C are the model's; of T the largest that will come, and one
            for each power of 2 below it that will.
        config: its budget says which mode is compiled.
        videos: the most videos of a batch.
        attention: heads, key heads and head dim of the layer that scores, where scores are wanted.
        dtype: of features, queries and keys.
        device: a GPU. (On a CPU, under Triton's interpreter, the calls run and compile nothing.)

    Raises:
        TypeError, ValueError: an argument of a wrong type or range; a GPU that is not there; a CPU
            without Triton's interpreter.
    """
    require_config(config)
    device = _require_device(device)
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"dtype must be float16, bfloat16 or float32, got {dtype}")
    shapes = as_list("shapes", shapes, "triples")
    attention = as_list("attention", attention, "triples")
    for name, triples in (("shapes", shapes), ("attention", attention)):
        for triple in triples:
            if isinstance(triple, int):
                raise TypeError(f"{name} must hold triples of integers, got {triple!r}")
            require_lengths(name, triple, count=3, minimum=1, maximum=2**31 - 1)
    (videos,) = require_lengths("videos", [videos], minimum=1, maximum=2**31 - 1)
    with torch.no_grad():
        for frames, tokens, channels in shapes:
            others = _fewest_frames(frames, tokens, config)
            for count in {min(2**power, videos) for power in range(videos.bit_length() + 1)}:
                of_each = [frames] + [others] * (count - 1)
                x = torch.zeros((sum(of_each), tokens, channels), dtype=dtype, device=device)
                merged = pipeline.merge_videos(x, of_each, config, impl="triton")
                apply_layout(x[:frames], merged[0].layout, impl="triton")
        for heads, kv_heads, head_dim in attention:
            _warm_up_selection(heads, kv_heads, head_dim, dtype, device)


def _fewest_frames(frames: int, tokens: int, config: PruneVidConfig) -> int:
    """Of the shortest video, of at most ``frames`` frames, that kernels merge: one with room for
    all its tokens is no part of their batch."""
    if config.budget is None:
        return 1
    shrinks = (
        count
        for count in range(1, frames + 1)
        if budget_tokens(count, tokens, config.budget) < count * tokens
    )
    return next(shrinks, 1)


def _require_device(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"device must be a torch device, got {device!r}") from error
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise ValueError(f"device {str(found)!r} was asked for; GPUs that were found: {count}")
    if found.type not in ("cuda", "cpu"):
        raise ValueError(f"device must be a GPU (cuda), got {str(found)!r}")
    return found


def _warm_up_selection(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> None:
    rows, keys = 3, 37  # neither 1 nor a multiple of 16, which Triton tells apart
    query = torch.zeros((1, heads, rows, head_dim), dtype=dtype, device=device)
    key = torch.zeros((1, kv_heads, keys, head_dim), dtype=dtype, device=device)
    key_mask = torch.ones((1, keys), dtype=torch.bool, device=device)
    for causal_offset in (None, keys - rows):
        for mask in (None, key_mask):
            score_visual_tokens(
                query,
                key,
                slice(2, keys - rows),
                causal_offset=causal_offset,
                key_mask=mask,
                impl="triton",
            )
    index = torch.arange(0, keys, 2, device=device)
    for count in (1, 22):
        compact([key] * count, index, dim=2, impl="triton")
