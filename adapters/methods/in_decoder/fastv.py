"""FastV (Chen et al., ECCV 2024, https://arxiv.org/abs/2403.06764): drop visual tokens inside the
language model, by what its last token looks at in one early layer.

At the input of layer K, the visual tokens are ranked by the attention of layer K - 1: its real,
causal, rotated attention, the mean over heads, the row of the prompt's last token. The best
``round(keep_ratio * V)`` stay, in their order and at their positions. Layers before K keep what
they have cached, so that decoding sees every token there. Each video of a prompt is ranked on its
own.

That one row is computed from the layer's queries and keys; the layer itself stays on its fused
attention. (:func:`prunevid_kernels.score_visual_tokens` gives the maximum over heads, and FastV
needs their mean: one call a head would do, one softmax over [H, 1, S] is the same and shorter.)
"""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_kernels import MergedVideo

from ...engine.layer_attention import LayerAttention
from ...engine.method import PruningMethod, VideoSelection
from ...engine.prompt import VideoPlace
from ..attention import best, paid_by_last_token
from ..options import require_count, require_ratio
from ..record import Terms, pruning_method
from ..shares import selected_share


def _at_share(terms: Terms) -> dict[str, float | int]:
    """The published first layer, or the nearest that a short decoder has room for."""
    k = 2 if terms.share * terms.num_layers > 2 else 1
    return {"k": k, "keep_ratio": selected_share(terms, k, "fastv")}


@pruning_method(
    "FastV",
    changes=("selects",),
    knob=_at_share,
    knob_text="keep_ratio, so that the mean over layers is the share",
)
@dataclass(eq=False)
class FastV(PruningMethod):
    """FastV.

    Args:
        k: the first decoder layer that runs on the kept tokens.
        keep_ratio: share of a video's tokens that is kept.
    """

    k: int = 2
    keep_ratio: float = 0.3

    name = "fastv"
    keeps_early_caches = True
    prunes = True

    def __post_init__(self) -> None:
        require_count("k", self.k, minimum=1)
        require_ratio("keep_ratio", self.keep_ratio)
        self.layer = self.k - 1

    def select_video(
        self, attention: LayerAttention, place: VideoPlace, video: MergedVideo
    ) -> VideoSelection:
        scores = paid_by_last_token(attention, place, self.name)
        return VideoSelection(scores, best(scores, round(self.keep_ratio * len(scores))))
