"""The merge of a batch of videos, put together: eight launches and one copy to the host.

    features [F, N, C] -> frame_mean -> segments (Gram, clusters) -> static_split -> group_table
                       -> group_gram -> group_clusters -> group_mean -> merged tokens [L, C]

All videos of the batch lie one after the other in F frames; a table of their first frames replaces
padding. The length of the output depends on the data, so the host has to be told. It learns it from
the group table and waits for that only after the clustering has been launched behind it: the device
does not wait for the host.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_kernels.kernels.dpc_knn import MAX_POINTS
from prunevid_kernels.kernels.frame_mean import frame_mean
from prunevid_kernels.kernels.gram import group_gram
from prunevid_kernels.kernels.group_clusters import group_clusters
from prunevid_kernels.kernels.group_mean import group_mean
from prunevid_kernels.kernels.groups import group_table
from prunevid_kernels.kernels.segments import segments
from prunevid_kernels.kernels.static_split import static_split


class VideoMerge(NamedTuple):
    """One video's merged tokens [L, C] and structure; sizes and lengths int64 in host memory."""

    tokens: Tensor
    segment_lengths: Tensor
    static_sizes: Tensor
    frame_sizes: Tensor
    source_to_merged: Tensor
    merged_anchor: Tensor
    merged_count: Tensor


class BatchMerge(NamedTuple):
    """Each video's first bad frame (None: all features are finite) and, if all are, the videos."""

    first_bad_frame: list[int | None]
    videos: list[VideoMerge]


@functools.lru_cache(maxsize=128)
def first_frames(frames: tuple[int, ...], device: torch.device) -> Tensor:
    """[B + 1] int32 first frame of each video, and their number; kept: one copy for each shape."""
    return torch.tensor([0, *frames]).cumsum(0).to(torch.int32).to(device)


def merge_videos(
    features: Tensor,
    frames: Sequence[int],
    *,
    tau: float,
    segment_ratio: float,
    cluster_ratio: float,
    num_neighbors: int,
    min_cluster_tokens: int,
) -> BatchMerge:
    """Merge the videos of ``frames`` frames each that features [sum of frames, N, C] holds.

    Raises:
        ValueError: more than ``MAX_POINTS`` frames in a video or tokens in a frame.
    """
    num_frames, n, channels = features.shape
    if max(*frames, n) > MAX_POINTS:
        raise ValueError(
            f"features must have at most {MAX_POINTS} frames a video and tokens a frame, "
            f"got {max(frames)} frames and {n} tokens"
        )
    x = features.contiguous()
    first_frame = first_frames(tuple(frames), x.device)
    mean, square_norm, is_bad = frame_mean(x)
    start, length, static_count = segments(
        mean, first_frame, max(frames), segment_ratio, num_neighbors
    )
    is_static, static_mean = static_split(x, square_norm, start, length, static_count, tau)
    table = group_table(
        first_frame,
        max(frames),
        start,
        static_count,
        is_static,
        is_bad,
        cluster_ratio,
        min_cluster_tokens,
    )
    host = _HostCopy(table.host)
    matrices, norms = group_gram(
        x, static_mean, start, static_count, table.position, min_cluster_tokens
    )
    clusters = group_clusters(
        matrices,
        norms,
        first_frame,
        start,
        length,
        static_count,
        table,
        channels,
        num_neighbors,
        min_cluster_tokens,
    )

    starts, static_sizes, frame_sizes, num_merged, first_bad = host.wait().split(
        [num_frames, num_frames, num_frames, len(frames), len(frames)]
    )
    bad = [
        frame if frame < count else None
        for frame, count in zip(first_bad.tolist(), frames, strict=True)
    ]
    if any(frame is not None for frame in bad):
        return BatchMerge(bad, [])
    lengths = num_merged.tolist()
    device_num_merged = table.host[3 * num_frames : 3 * num_frames + len(frames)]
    merged = group_mean(x, static_mean, first_frame, device_num_merged, clusters, sum(lengths))

    videos = []
    first = 0
    for count, num_tokens, tokens in zip(frames, lengths, merged.split(lengths), strict=True):
        video = slice(first, first + count)
        is_start = starts[video] == torch.arange(first, first + count)
        segment_starts = is_start.nonzero()[:, 0]
        videos.append(
            VideoMerge(
                tokens,
                segment_lengths=torch.diff(segment_starts, append=torch.tensor([count])),
                static_sizes=static_sizes[video][is_start],
                frame_sizes=frame_sizes[video],
                source_to_merged=clusters.source_to_merged[video],
                merged_anchor=clusters.merged_anchor[first * n : first * n + num_tokens],
                merged_count=clusters.merged_count[first * n : first * n + num_tokens],
            )
        )
        first += count
    return BatchMerge(bad, videos)


class _HostCopy:
    """A copy to pinned memory that is started now and waited for later."""

    def __init__(self, values: Tensor) -> None:
        on_device = values.is_cuda
        self._values = torch.empty_like(values, device="cpu", pin_memory=on_device)
        self._values.copy_(values, non_blocking=True)
        self._event = torch.cuda.Event() if on_device else None
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(values.device))

    def wait(self) -> Tensor:
        if self._event is not None:
            self._event.synchronize()
        return self._values.long()
