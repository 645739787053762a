"""VisionZip (Yang et al., CVPR 2025, https://arxiv.org/abs/2412.04467): of each frame on its own,
the tokens that the tower looks at most, and a few that stand for the others.

1. The ``dom`` tokens of highest importance stay as they are.
2. Of the M others, in order, every ``max(1, M // ctx)``-th is a target, ``ctx`` of them.
3. Each of the rest goes to the target whose key, the mean over heads, is most like its own. A
   target becomes itself plus the mean of those that came. The sum is what was published: the paper
   says "merged", and the length of such a token doubles.

The original acts on the states of the tower, before the projector; here the tokens are merged that
the decoder would get.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_kernels import MergedVideo

from ..attention import best
from ..comparing import cosines, group_means
from ..options import require_count, require_ratio
from ..record import pruning_method
from ..subset import first_bad_frame, subset_layout
from ..vision import TowerGuided


@pruning_method("VisionZip", needs=("tower",), changes=("merges",), knob="ratio")
@dataclass(eq=False)
class VisionZip(TowerGuided):
    """VisionZip.

    Args:
        ratio: r, share of a frame's tokens that is kept, ten of 64 as targets; not used where the
            two numbers are given.
        dom: tokens of highest importance in a frame.
        ctx: targets in a frame.
    """

    ratio: float = 0.25
    dom: int | None = None
    ctx: int | None = None

    name = "visionzip"
    prunes = True

    def __post_init__(self) -> None:
        require_ratio("ratio", self.ratio)
        if (self.dom is None) != (self.ctx is None):
            raise ValueError(f"give both dom and ctx, or neither; got {self.dom!r}, {self.ctx!r}")
        if self.dom is not None:
            require_count("dom", self.dom, minimum=0)
            require_count("ctx", self.ctx, minimum=1)

    def counts(self, width: int) -> tuple[int, int]:
        """Tokens of highest importance, and targets, of a frame of ``width`` tokens."""
        if self.dom is not None and self.ctx is not None:
            dominant = min(self.dom, width)
            return dominant, min(self.ctx, width - dominant)
        kept = max(1, int(width * self.ratio))
        targets = max(1, round(kept * 10 / 64))
        return kept - targets, targets

    def merge_seen(self, features: Tensor, weights: Tensor, keys: Tensor) -> MergedVideo:
        (frames, width), device = weights.shape, features.device
        dom, ctx = self.counts(width)
        dominant = best(weights, dom)  # [T, dom]
        is_other = torch.ones_like(weights, dtype=torch.bool).scatter_(1, dominant, False)
        others = is_other.nonzero()[:, 1].view(frames, -1)  # [T, M]
        step = max(1, others.shape[1] // max(1, ctx))
        targets = others[:, ::step][:, :ctx]  # [T, ctx]
        is_rest = is_other.scatter(1, targets, False)
        rest = is_rest.nonzero()[:, 1].view(frames, -1)  # [T, M - ctx]

        row = torch.arange(frames, device=device)[:, None]
        mean_keys, x = keys.float().mean(dim=2), features.float()
        source = torch.full((frames, width), -1, device=device)
        slots = torch.arange(dom + ctx, device=device).expand(frames, -1) + row * (dom + ctx)
        source[row, dominant], source[row, targets] = slots[:, :dom], slots[:, dom:]
        contextual = x[row, targets]
        if rest.shape[1] and ctx:
            nearest = cosines(mean_keys[row, rest], mean_keys[row, targets]).argmax(dim=2)
            labels = (nearest + row * ctx).flatten()
            came = group_means(x[row, rest].flatten(0, 1), labels, frames * ctx)
            contextual = contextual + came.unflatten(0, (frames, ctx))
            source[row, rest] = slots[:, dom:].gather(1, nearest)
        tokens = torch.cat((x[row, dominant], contextual), dim=1).flatten(0, 1)
        anchors = (torch.cat((dominant, targets), dim=1) + row * width).flatten()
        layout = subset_layout(frames, width, anchors, source)
        return MergedVideo(tokens.to(features.dtype), layout, first_bad_frame(features))
