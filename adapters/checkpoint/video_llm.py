"""The base of our own model classes: a vision side in front of Llama.

For families that transformers has no class for: theirs put its parts together. How a video becomes
tokens and where those stand in a prompt is each class's own; the language model, strict loading,
and putting encoded videos in place of their placeholders are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaForCausalLM, PreTrainedModel

from ..engine.interface import ModelAdapter
from .files import Checkpoint
from .loading import Recipe, choose_attention, empty_weights, load_weights

if TYPE_CHECKING:
    from typing_extensions import Self


class VideoLlm(PreTrainedModel, GenerationMixin):
    """A video model around Llama with its head; generates by transformers' own ``generate``."""

    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    language_model: LlamaForCausalLM

    @classmethod
    def _empty(cls, config: Any) -> Self:
        """The model without memory for its parameters, its attention left to transformers."""
        choose_attention(config)
        with empty_weights():
            return cls(config)

    def _fill(
        self,
        checkpoint: Checkpoint,
        recipes: Sequence[Recipe],
        ignore: Sequence[str],
        dtype: torch.dtype | None,
        device: torch.device | str,
    ) -> Self:
        """Load an empty model's weights; see :func:`~.loading.load_weights`.

        Raises:
            CheckpointError: weights that do not fit, with a report.
        """
        dtype = dtype or checkpoint.dtype
        load_weights(self, checkpoint, recipes, ignore=ignore, dtype=dtype, device=device)
        self.config.dtype = self.dtype
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.lm_head

    def get_decoder(self) -> nn.Module:
        return self.language_model.model

    def _embed(self, input_ids: Tensor, video_id: int, tokens: Tensor) -> Tensor:
        """[B, S, C] embeddings of prompts, with the visual ``tokens`` [..., C] in the places of
        their placeholders, in order."""
        embeds = self.get_input_embeddings()(input_ids)
        return embeds.masked_scatter((input_ids == video_id)[:, :, None], tokens.to(embeds.dtype))


class VideoLlmAdapter(ModelAdapter):
    """The model itself is what is called, and its decoder is Llama's."""

    def decoder(self, model: nn.Module) -> nn.Module:
        return model.get_decoder()  # type: ignore[operator]

    def entries(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model]

    def vision_calls(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        return [(model, "encode_videos")]
