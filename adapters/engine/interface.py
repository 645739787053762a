"""What a model adapter tells the engine: where things live, never how pruning works.

An adapter is a small stateless object for one model family. It names the modules to hook and finds,
in the arguments of one forward call, which prompt positions hold the tokens of which video. The
rest (merging, scoring, gathering, caches, positions) is the engine's and is the same for every
family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .prompt import PromptVisuals, VideoSpan, VisualPlanes

__all__ = ["ModelAdapter", "PromptVisuals", "VideoSpan", "VisionAttention", "VisualPlanes"]


@dataclass(frozen=True)
class VisionAttention:
    """Where a model's vision side tells which of its tokens matter: the last self-attention that
    the visual tokens pass through.

    Attributes:
        query, key: the projections; each gives [F, P, num_heads * D] for F frames.
        num_heads: of the attention.
        tokens: which of the P rows are patches or tokens.
        has_class_token: row 0 is CLS, whose attention is the importance; else it is what a token
            receives from all of them.
        encoder: the module at whose end the attention has run; its first argument has a leading
            dimension V for :attr:`pool`.
        pool: ([F, P', C], V) -> [T, N, C], from patches to visual tokens, exactly as the features
            are pooled.
    """

    query: nn.Module
    key: nn.Module
    num_heads: int
    tokens: slice
    has_class_token: bool
    encoder: nn.Module
    pool: Callable[[Tensor, int], Tensor]


class ModelAdapter(ABC):
    """Where things live in one model family.

    Attributes:
        positions: ``"renumber"`` gives the merged tokens consecutive positions and lets decoding go
            on from the merged length, as the authors' released code does. ``"keep"`` leaves every
            token the position that the caller gave to it (a merged token: to its first source
            token), which a model with multi-dimensional rotary positions needs.
        position_axes: how many numbers a rotary position has: time, height and width, or place.
        decoder_types: ``model_type`` of the text decoders that the family's models were tried with.
        tells_videos: False where a call's arguments do not tell a video from images: the visuals
            that :meth:`locate` finds are all images then, and the caller announces which of them
            are a video's frames.
    """

    positions: Literal["renumber", "keep"] = "renumber"
    position_axes: int = 1
    decoder_types: tuple[str, ...] = ("llama", "qwen2")
    tells_videos: bool = True

    @abstractmethod
    def decoder(self, model: nn.Module) -> nn.Module:
        """The text decoder: the module with ``layers`` and ``rotary_emb`` that is called with
        ``inputs_embeds``, the visual features already in their places."""

    @abstractmethod
    def entries(self, model: nn.Module) -> Sequence[nn.Module]:
        """The modules, outermost first, whose forward gets what :meth:`locate` reads. A call may
        begin at any of them."""

    @abstractmethod
    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the call brings visual features. Cheap: asked at every decoding step, and never
        answered from token ids, since a generated token can equal a placeholder."""

    @abstractmethod
    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        """Where the features of such a call go, for each prompt of the batch.

        Raises:
            ValueError: they cannot be placed; the message says why.
        """

    def video_token_id(self, model: nn.Module) -> int | None:
        """The id that stands for a video token in ``input_ids``, if the family has one."""
        return None

    def one_video_each(
        self, model: nn.Module, inputs: Mapping[str, Any]
    ) -> list[PromptVisuals] | None:
        """What to announce of prompts whose visuals are one video each, as this library's
        processors make them; None where there is nothing to announce."""
        return None

    def planes(self, model: nn.Module) -> VisualPlanes | None:
        """The features that the decoder adds to visual tokens after its first layers, if any."""
        return None

    def vision_calls(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        """The methods through which all pixels become features, as (whose, name); a method that
        calls another one of them first. Empty: the model has no vision side that is known here."""
        return []

    def vision_attention(self, model: nn.Module) -> VisionAttention:
        """Where methods that rank tokens before the decoder look.

        Raises:
            ValueError: the model has no vision side that is known here.
        """
        raise ValueError(
            f"{type(model).__name__} has no attention on its vision side that could rank its tokens"
        )

    def frame_grid(self, model: nn.Module) -> tuple[int, int]:
        """Rows and columns of a frame's tokens, which stand row by row.

        Raises:
            ValueError: they are no grid, or not the same one for every video.
        """
        raise ValueError(f"{type(model).__name__} has no grid in which the tokens of a frame lie")
