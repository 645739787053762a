"""FlashVID (Fan et al., ICLR 2026, https://arxiv.org/abs/2602.08024): tokens that differ and
matter, trees of the others over time, clusters of what is left; then a selection in the decoder.

1. Segments end where neighbouring frames are less alike than ``segment_threshold``, and behind the
   least alike where there would be fewer than ``min_segments`` (a cut found twice counts once).
2. A frame has ``b = ceil(N r expansion)`` tokens, ``A = ceil(b alpha)`` of them selected: farthest
   points by ``(1 - cos) * importance``, with ``event`` also times a token's mean product with the
   segment's frames.
3. to 5. The other ``B = b - A`` are merged, see :mod:`.flashvid_trees`.
6. Selected tokens stay as they are, and precede merged ones at the same place.
7. Behind decoder layer ``layer``, the share ``llm_keep`` of all of them stays, by FastV's score.

So r is the mean over 28 layers: ``(20 * 1.25 + 8 * 1.25 * 0.3) / 28 = 1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo

from ...engine.layer_attention import LayerAttention
from ...engine.method import VideoSelection
from ...engine.prompt import VideoPlace
from ..attention import best, paid_by_last_token
from ..comparing import cosines, frame_similarity, runs
from ..options import require_between, require_count, require_ratio
from ..record import Terms, pruning_method
from ..shares import mean_factor
from ..subset import first_bad_frame, subset_layout
from ..vision import TowerGuided
from .flashvid_trees import merge_trees

IMPORTANCE_SCALE = 1e6  # the original's


def _at_share(terms: Terms) -> dict[str, float | int]:
    """The layer as far into the decoder as published, and the expansion that belongs to it."""
    layer = max(0, round(terms.num_layers * 20 / 28) - 1)
    factor = mean_factor(layer + 1, 0.3, terms.num_layers)
    return {"retention_ratio": terms.share, "layer": layer, "expansion": 1 / factor}


@pruning_method(
    "FlashVID",
    needs=("tower",),
    changes=("merges", "selects"),
    knob=_at_share,
    knob_text="retention_ratio = share, expansion = 1 / mean over layers",
)
@dataclass(eq=False)
class FlashVid(TowerGuided):
    """FlashVID.

    Args:
        retention_ratio: r, share of the tokens that is kept, the mean over layers.
        alpha: share of a frame's tokens that are selected and not merged.
        expansion: of r, before the decoder.
        segment_threshold: frames less alike than this are of different segments.
        temporal_threshold: a token joins one of the frame before if they are more alike than this.
        min_segments: fewest segments.
        event: weight the selection by the segment's frames, as the scripts behind the paper's
            numbers do; the released code's default does not.
        layer: the selection acts at the end of this 0-based decoder layer; None: never.
        llm_keep: share of the tokens that it keeps.
    """

    retention_ratio: float = 0.10
    alpha: float = 0.7
    expansion: float = 1.25
    segment_threshold: float = 0.9
    temporal_threshold: float = 0.8
    min_segments: int = 8
    event: bool = True
    layer: int | None = 19
    llm_keep: float = 0.3

    name = "flashvid"
    keeps_early_caches = True
    prunes = True

    def __post_init__(self) -> None:
        for name in ("retention_ratio", "alpha", "llm_keep"):
            require_ratio(name, getattr(self, name))
        for name in ("segment_threshold", "temporal_threshold"):
            require_between(name, getattr(self, name), -1, 1)
        require_between("expansion", self.expansion, 0, 1000)
        require_count("min_segments", self.min_segments, minimum=1)
        if self.layer is not None:
            require_count("layer", self.layer, minimum=0)

    def merge_seen(self, features: Tensor, weights: Tensor, keys: Tensor) -> MergedVideo:
        (frames, width), x = weights.shape, features.float()
        size = min(width, math.ceil(width * self.retention_ratio * self.expansion))
        selected = math.ceil(size * self.alpha)
        parts = segments(x.mean(dim=1), self.segment_threshold, self.min_segments)
        is_selected = self._selection(x, weights, parts, selected)
        first = is_selected.flatten().nonzero()[:, 0]
        merged = merge_trees(x, is_selected, parts, size - selected, self.temporal_threshold)
        # By place; at the same place the selected one, which stands first, precedes.
        flat, order = torch.sort(torch.cat((first, merged.anchors)), stable=True)
        slots = torch.empty_like(order)
        slots[order] = torch.arange(len(order), device=x.device)
        # One more slot, the last, for what went nowhere: -1.
        source = torch.cat((slots[len(first) :], slots.new_tensor([-1])))[merged.source]
        source.view(-1)[first] = slots[: len(first)]
        tokens = torch.cat((x.flatten(0, 1)[first], merged.tokens))[order].to(features.dtype)
        layout = subset_layout(frames, width, flat, source)
        return MergedVideo(tokens, layout, first_bad_frame(features))

    def _selection(
        self, x: Tensor, weights: Tensor, parts: list[tuple[int, int]], count: int
    ) -> Tensor:
        """Step 2: [T, N] bool."""
        far = (1 - cosines(x, x)) * (IMPORTANCE_SCALE * weights[:, None])  # [T, i, j]
        if self.event:
            event = [x[a:b] @ x[a:b].mean(dim=(0, 1)) for a, b in parts]
            far = far * torch.cat(event)[:, None]
        row = torch.arange(len(x), device=x.device)
        is_chosen = torch.zeros_like(weights, dtype=torch.bool)
        # A column's smallest is the token's distance to itself.
        score = far.topk(min(2, far.shape[1]), dim=1, largest=False).values[:, -1]
        least = torch.full_like(score, torch.inf)
        for _ in range(count):
            chosen = score.argmax(dim=1)
            is_chosen[row, chosen] = True
            least = torch.minimum(least, far[row, chosen])
            score = least.masked_fill(is_chosen, -torch.inf if self.event else -1.0)
        return is_chosen

    def select_video(
        self, attention: LayerAttention, place: VideoPlace, video: MergedVideo
    ) -> VideoSelection:
        scores = paid_by_last_token(attention, place, self.name)
        return VideoSelection(scores, best(scores, math.ceil(self.llm_keep * len(scores))))


def segments(frames: Tensor, threshold: float, fewest: int) -> list[tuple[int, int]]:
    """Step 1: (start, stop) of the segments of frames [T, C]."""
    alike = frame_similarity(frames)
    is_cut = alike < threshold
    missing = fewest - 1 - int(is_cut.sum())
    if missing > 0:
        least = best(-alike.masked_fill(is_cut, 1.0), min(missing, len(alike)))
        is_cut[least] = True
    return runs(is_cut)
