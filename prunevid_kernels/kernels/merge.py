"""The merge of a batch of videos, put together: ten launches and one copy to the host.

    features [F, N, C] -> frame_mean -> segments (Gram, segments)
                       -> static_split -> group_table -> group_gram
                       -> group_clusters (densities, scores, clusters) -> group_mean
                       -> merged tokens [L, C]

A batch with a video of more than 64 frames takes two launches more. All videos lie one after the
other in F frames; a table of their first frames, which the first launch writes from its own
arguments, replaces padding. The length of the output depends on the data, so the host has to be
told. It learns it from the group table and waits for that only after the clustering has been
launched: the device does not wait for the host.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_kernels.kernels._device import MAX_POINTS, in_memory
from prunevid_kernels.kernels._parts import span
from prunevid_kernels.kernels.group_clusters import GroupClusters, group_clusters
from prunevid_kernels.kernels.group_gram import group_gram
from prunevid_kernels.kernels.groups import GroupTable, group_table
from prunevid_kernels.kernels.means.frame_mean import frame_mean
from prunevid_kernels.kernels.means.group_mean import group_mean
from prunevid_kernels.kernels.segments import segments
from prunevid_kernels.kernels.static_split import static_split


class MergeParameters(NamedTuple):
    """The numbers of a config that the kernels need."""

    tau: float
    segment_ratio: float
    cluster_ratio: float
    num_neighbors: int
    min_cluster_tokens: int


class VideoMerge(NamedTuple):
    """One video's merged tokens [L, C]; its first frame and the one after its last, of those of all
    videos; and what its tokens' layout has of it."""

    tokens: Tensor
    frames: tuple[int, int]
    source_to_merged: Tensor
    merged_anchor: Tensor
    merged_count: Tensor


class BatchMerge(NamedTuple):
    """Each video's first bad frame (None: all features are finite) and, if all are, the videos; and
    of all of them :class:`~prunevid_kernels.kernels.groups.GroupTable.host`, in host memory, as
    :meth:`~prunevid_kernels.TokenLayout.deferred_in` takes it."""

    first_bad_frame: list[int | None]
    videos: list[VideoMerge]
    structure: Tensor


class _Decisions(NamedTuple):
    """Everything but the averages: what is merged with what, on the device."""

    x: Tensor
    segment_length: Tensor
    first_row: Tensor
    table: GroupTable
    host_table: _HostCopy | None
    clusters: GroupClusters


def _tables(
    frames: Sequence[int], room: Sequence[int], budgets: Sequence[int] | None
) -> tuple[list[int], int]:
    """First frames [B + 1], first rows [B + 1] and budgets [B], where there are any, as one list,
    and how far they lie apart.

    Each starts at a multiple of 16 bytes: Triton compiles for other alignments apart.
    """
    first_frame = list(itertools.accumulate(frames, initial=0))
    pitch = (len(first_frame) + 3) // 4 * 4
    padding = [0] * (pitch - len(first_frame))
    values = [*first_frame, *padding, *itertools.accumulate(room, initial=0)]
    return (values if budgets is None else [*values, *padding, *budgets]), pitch


def _decide(
    features: Tensor, frames: Sequence[int], budgets: Sequence[int] | None, p: MergeParameters
) -> _Decisions:
    """Every launch but the last. Without budgets, the table's copy to the host is under way."""
    n, channels = features.shape[1:]
    if max(*frames, n) > MAX_POINTS:
        raise ValueError(
            f"features must have at most {MAX_POINTS} frames a video and tokens a frame, "
            f"got {max(frames)} frames and {n} tokens"
        )
    x = in_memory(features)
    # Room for every token where the host does not know yet how many there will be.
    room = [n * count for count in frames] if budgets is None else list(budgets)
    values, pitch = _tables(frames, room, budgets)
    min_cluster_tokens = p.min_cluster_tokens if budgets is None else None
    longest = max(frames)

    mean, is_offset, is_bad, tables = frame_mean(x, values)
    first_frame = span(tables, 0, len(frames) + 1)
    first_row = span(tables, pitch, pitch + len(frames) + 1)
    budget = None if budgets is None else span(tables, 2 * pitch, 2 * pitch + len(frames))
    start, length, static_count = segments(
        mean, first_frame, longest, p.segment_ratio, p.num_neighbors
    )
    is_static, static_mean = static_split(x, mean, is_offset, start, length, static_count, p.tau)
    table = group_table(
        first_frame,
        longest,
        start,
        length,
        static_count,
        is_static,
        is_bad,
        budget,
        p.cluster_ratio,
        p.min_cluster_tokens,
    )
    host_table = _HostCopy(table.host) if budgets is None else None
    matrices, norms = group_gram(
        x, mean, is_offset, static_mean, start, length, static_count, table, min_cluster_tokens
    )
    clusters = group_clusters(
        matrices,
        norms,
        first_frame,
        first_row,
        sum(room),
        start,
        length,
        static_count,
        table,
        channels,
        p.num_neighbors,
    )
    return _Decisions(x, length, first_row, table, host_table, clusters)


def _average(
    decisions: _Decisions,
    num_videos: int,
    total_merged: int,
    out: Tensor | None = None,
    *,
    may_share: bool = False,
) -> Tensor:
    """The last launch, or the last two: merged tokens [total_merged, C]."""
    x, segment_length, first_row, table, _, clusters = decisions
    first = 3 * x.shape[0]
    return group_mean(
        x,
        first_row,
        span(table.host, first, first + num_videos),
        segment_length,
        clusters,
        total_merged,
        out,
        may_share=may_share,
    )


def merge_videos(features: Tensor, frames: Sequence[int], p: MergeParameters) -> BatchMerge:
    """Threshold mode: merge the videos of ``frames`` frames each that features [F, N, C] holds.

    Raises:
        ValueError: more than ``MAX_POINTS`` frames in a video or tokens in a frame.
    """
    decisions = _decide(features, frames, None, p)
    assert decisions.host_table is not None
    num_frames, n, _ = features.shape
    table = decisions.host_table.wait()
    of_videos = table[3 * num_frames :].tolist()
    lengths, first_bad = of_videos[: len(frames)], of_videos[len(frames) :]
    bad = [frame if frame < count else None for frame, count in zip(first_bad, frames, strict=True)]
    if any(frame is not None for frame in bad):
        return BatchMerge(bad, [], table)
    merged = _average(decisions, len(frames), sum(lengths))

    clusters = decisions.clusters
    videos = []
    first = 0
    for count, num_tokens, tokens in zip(frames, lengths, merged.split(lengths), strict=True):
        last = first + count
        rows = slice(first * n, first * n + num_tokens)
        videos.append(
            VideoMerge(
                tokens,
                (first, last),
                source_to_merged=clusters.source_to_merged[first:last],
                merged_anchor=clusters.merged_anchor[rows],
                merged_count=clusters.merged_count[rows],
            )
        )
        first = last
    return BatchMerge(bad, videos, table)


def merge_videos_to_budget(
    features: Tensor,
    frames: Sequence[int],
    budgets: Sequence[int],
    p: MergeParameters,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Budget mode: exactly ``budgets[v] < frames[v] * N`` merged tokens of video v, and no wait for
    the device. ``out`` takes the tokens.

    Returns:
        tokens [sum of budgets, C]; source_to_merged [F, N] int64; merged_anchor and merged_count
        [sum of budgets] int64; structure [3 F + 2 B] int32 as
        :class:`~prunevid_kernels.kernels.groups.GroupTable.host`.

    Raises:
        ValueError: as :func:`merge_videos`.
    """
    decisions = _decide(features, frames, budgets, p)
    # Every frame has a group, and every segment of two frames or more.
    may_share = False
    for budget, count in zip(budgets, frames, strict=True):
        may_share |= budget < count + count // 2
    tokens = _average(decisions, len(frames), sum(budgets), out, may_share=may_share)
    clusters = decisions.clusters
    return (
        tokens,
        clusters.source_to_merged,
        clusters.merged_anchor,
        clusters.merged_count,
        decisions.table.host,
    )


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
