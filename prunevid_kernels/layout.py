"""Where every token went: the record that the merge hands to the selection, to reports and to other
stacks.

A video of T frames with N tokens each is cut into segments. A *group* is either the static tokens
of one segment or the dynamic tokens of one frame; the merged tokens of a group lie next to each
other. Groups come in this order: the first segment's static group, then the dynamic group of each
of its frames, then the second segment's, and so on. Groups may be empty; there are always ``S + T``
of them for S segments.

A budget of fewer tokens than there are groups with any makes neighbouring groups share a merged
token. It counts as one of the first of them; the others have size 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """The structure of one merged video of T frames, N tokens a frame, S segments, L merged tokens.

    The four small fields are int64/bool tensors in host memory, so that reading them never waits
    for a device; the other three lie on the device of the features.

    Attributes:
        segment_lengths: [S] frames of each segment, in time order; sums to T.
        group_sizes: [S + T] merged tokens of each group; sums to L.
        group_is_static: [S + T] bool.
        group_segment: [S + T] segment that each group belongs to.
        source_to_merged: [T, N] int64, the merged token that each source token is averaged into.
            The merge leaves none out; other methods' layouts have -1 for what they drop.
        merged_anchor: [L] int64, flat index ``t * N + n`` of each merged token's first source.
        merged_count: [L] int64, source tokens of each merged token.
    """

    segment_lengths: Tensor
    group_sizes: Tensor
    group_is_static: Tensor
    group_segment: Tensor
    source_to_merged: Tensor
    merged_anchor: Tensor
    merged_count: Tensor

    def __repr__(self) -> str:
        """The sizes alone. Of a deferred layout too, without a look at the device."""
        return (
            f"TokenLayout({self.num_frames} frames of {self.tokens_per_frame} tokens ->"
            f" {self.num_merged} merged tokens)"
        )

    @property
    def num_frames(self) -> int:
        return self.source_to_merged.shape[0]

    @property
    def tokens_per_frame(self) -> int:
        return self.source_to_merged.shape[1]

    @property
    def num_segments(self) -> int:
        return self.segment_lengths.shape[0]

    @property
    def num_merged(self) -> int:
        return self.merged_anchor.shape[0]

    def frame_segments(self) -> Tensor:
        """[T] int64 in host memory: the segment of each frame."""
        return torch.repeat_interleave(self.segment_lengths)

    def merged_groups(self) -> Tensor:
        """[L] int64 in host memory: the group of each merged token, the first of several."""
        return torch.repeat_interleave(self.group_sizes)

    def static_sizes(self) -> Tensor:
        """[S] merged static tokens of each segment, in host memory."""
        return self.group_sizes[self.group_is_static]

    def dynamic_sizes(self) -> Tensor:
        """[S] merged dynamic tokens of each segment, all its frames together, in host memory."""
        dynamic = ~self.group_is_static
        sizes = torch.zeros_like(self.segment_lengths)
        return sizes.index_add_(0, self.group_segment[dynamic], self.group_sizes[dynamic])

    def static_mask(self) -> Tensor:
        """[T, N] bool on the features' device: source tokens that a static merged token stands for,
        or one that groups share of which the first is static."""
        static = self.group_is_static[self.merged_groups()].to(self.source_to_merged.device)
        return static[self.source_to_merged] & (self.source_to_merged >= 0)

    @classmethod
    def from_sizes(
        cls,
        segment_lengths: Tensor,
        static_sizes: Tensor,
        frame_sizes: Tensor,
        *,
        source_to_merged: Tensor,
        merged_anchor: Tensor,
        merged_count: Tensor,
    ) -> TokenLayout:
        """Put the groups into their order.

        Args:
            segment_lengths: [S] int64, host.
            static_sizes: [S] int64, host: merged static tokens of each segment.
            frame_sizes: [T] int64, host: merged dynamic tokens of each frame.
            source_to_merged: as the attribute.
            merged_anchor: as the attribute.
            merged_count: as the attribute.
        """
        segments = torch.arange(len(segment_lengths), device="cpu")
        segment_starts = segment_lengths.cumsum(0) - segment_lengths
        frame_segments = torch.repeat_interleave(segments, segment_lengths)
        static_slots = segment_starts + segments  # after the earlier frames and static groups
        frame_slots = torch.arange(len(frame_sizes), device="cpu") + frame_segments + 1

        num_groups = len(segment_lengths) + len(frame_sizes)
        group_sizes = torch.empty(num_groups, dtype=torch.int64, device="cpu")
        group_sizes[static_slots], group_sizes[frame_slots] = static_sizes, frame_sizes
        group_segment = torch.empty(num_groups, dtype=torch.int64, device="cpu")
        group_segment[static_slots], group_segment[frame_slots] = segments, frame_segments
        group_is_static = torch.zeros(num_groups, dtype=torch.bool, device="cpu")
        group_is_static[static_slots] = True
        return cls(
            segment_lengths=segment_lengths,
            group_sizes=group_sizes,
            group_is_static=group_is_static,
            group_segment=group_segment,
            source_to_merged=source_to_merged,
            merged_anchor=merged_anchor,
            merged_count=merged_count,
        )

    @classmethod
    def deferred(
        cls,
        segment_starts: Tensor,
        static_sizes: Tensor,
        frame_sizes: Tensor,
        *,
        source_to_merged: Tensor,
        merged_anchor: Tensor,
        merged_count: Tensor,
    ) -> TokenLayout:
        """A layout whose host fields stay on the device until one of them is first read.

        Budget mode gives it: building it waits for nothing; the first look at a host field copies
        them all.

        Args:
            segment_starts: [T] integers on any device: a number that the frames of one segment, and
                no frames beside them, share.
            static_sizes: [T] integers: at the first frame of each segment its merged static tokens.
            frame_sizes: [T] integers: merged dynamic tokens of each frame.
            source_to_merged: as the attribute.
            merged_anchor: as the attribute.
            merged_count: as the attribute.
        """
        layout = cls.deferred_in(
            segment_starts,
            len(segment_starts),
            0,
            len(segment_starts),
            source_to_merged=source_to_merged,
            merged_anchor=merged_anchor,
            merged_count=merged_count,
        )
        rows = (segment_starts, static_sizes, frame_sizes)  # which lie apart
        object.__setattr__(layout, "_deferred", rows)
        return layout

    @classmethod
    def deferred_in(
        cls,
        structure: Tensor,
        num_frames: int,
        first: int,
        last: int,
        *,
        source_to_merged: Tensor,
        merged_anchor: Tensor,
        merged_count: Tensor,
    ) -> TokenLayout:
        """:meth:`deferred`, from where a merge of several videos has left its rows: not even a view
        is made of them before they are read.

        Args:
            structure: integers on any device: the three rows of :meth:`deferred` for all videos'
                frames, one row after the other, then whatever.
            num_frames: of all videos together.
            first: the first frame of this one.
            last: the frame after its last.
            source_to_merged: as the attribute.
            merged_anchor: as the attribute.
            merged_count: as the attribute.
        """
        layout = object.__new__(cls)
        for name, value in (
            ("_deferred", (structure, num_frames, first, last)),
            ("source_to_merged", source_to_merged),
            ("merged_anchor", merged_anchor),
            ("merged_count", merged_count),
        ):
            object.__setattr__(layout, name, value)
        return layout

    def __getattr__(self, name: str) -> Tensor:
        # Reached only for attributes that do not exist: the host fields of a deferred layout.
        if name not in _HOST_FIELDS or "_deferred" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        deferred = self.__dict__["_deferred"]
        if len(deferred) == 3:
            rows = torch.stack(deferred)
        else:
            structure, num_frames, first, last = deferred
            rows = structure[: 3 * num_frames].view(3, num_frames)[:, first:last]
        starts, static_sizes, frame_sizes = rows.long().cpu()
        is_start = torch.ones_like(starts, dtype=torch.bool)
        is_start[1:] = starts[1:] != starts[:-1]
        first_frames = is_start.nonzero()[:, 0]
        complete = TokenLayout.from_sizes(
            torch.diff(first_frames, append=first_frames.new_tensor([len(starts)])),
            static_sizes[is_start],
            frame_sizes,
            source_to_merged=self.source_to_merged,
            merged_anchor=self.merged_anchor,
            merged_count=self.merged_count,
        )
        for field in _HOST_FIELDS:
            object.__setattr__(self, field, getattr(complete, field))
        return getattr(self, name)

    @classmethod
    def identity(cls, num_frames: int, tokens_per_frame: int, device: torch.device) -> TokenLayout:
        """The layout of an unmerged video: one segment, every token dynamic and alone."""
        tokens = torch.arange(num_frames * tokens_per_frame, device=device)
        return cls.from_sizes(
            torch.tensor([num_frames], device="cpu"),
            torch.tensor([0], device="cpu"),
            torch.full((num_frames,), tokens_per_frame, device="cpu"),
            source_to_merged=tokens.view(num_frames, tokens_per_frame),
            merged_anchor=tokens,
            merged_count=torch.ones_like(tokens),
        )


_HOST_FIELDS = ("segment_lengths", "group_sizes", "group_is_static", "group_segment")


@dataclass(frozen=True)
class MergedVideo:
    """One merged video.

    Attributes:
        tokens: [L, C] merged tokens in the features' dtype.
        layout: how they came about.
        first_bad_frame: budget mode in the kernels only, where raising would mean waiting: 0-d
            int32 on the device, the first frame that holds a NaN or an infinity, T where there is
            none. Else None: the features were finite, or there would be no result.
    """

    tokens: Tensor
    layout: TokenLayout
    first_bad_frame: Tensor | None = None

    def __repr__(self) -> str:
        """The sizes alone, without a look at the device."""
        return (
            f"MergedVideo(tokens {list(self.tokens.shape)} {self.tokens.dtype} on"
            f" {self.tokens.device}, {self.layout!r})"
        )
