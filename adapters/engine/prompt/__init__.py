"""A batch of prompts before and after the merge: what each consists of, and what goes where."""

from .batch import MergedBatch, VideoPlace, merge_prompts
from .pieces import MergedPrompt, Piece, split_prompt
from .planes import VisualPlanes, merge_planes
from .positions import merged_positions
from .visuals import PromptVisuals, VideoSpan, require_visuals, videos_among

__all__ = [
    "MergedBatch",
    "MergedPrompt",
    "Piece",
    "PromptVisuals",
    "VideoPlace",
    "VideoSpan",
    "VisualPlanes",
    "merge_planes",
    "merge_prompts",
    "merged_positions",
    "require_visuals",
    "split_prompt",
    "videos_among",
]
