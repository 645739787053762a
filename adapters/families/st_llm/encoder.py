"""What ST-LLM's language model sees of a video: frames, looked at with the question in mind.

Each frame's patches go to the Q-Former, whose 32 queries read the question beside them
(transformers' ``InstructBlipQFormerModel``); their states, projected, are the frame's tokens. In
residual mode, the tokens of some frames are kept, and what the others show comes in through the
mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerModel

from .config import StLlmConfig
from .vision import EvaVisionModel


class GlobalResidual(nn.Module):
    """Residual mode: tokens of some frames, each with what the mean over all frames adds."""

    def __init__(self, config: StLlmConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.config = config
        self.down = nn.Linear(width, config.residual_width)
        self.up = nn.Linear(config.residual_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, Q, C] -> [B, residual_size, Q, C]

        Raises:
            ValueError: fewer frames than ``residual_size``.
        """
        summary = self.up(torch.relu(self.down(tokens.mean(dim=1, keepdim=True))))
        return tokens[:, self.config.token_frames(tokens.shape[1])] + summary


class VideoEncoder(nn.Module):
    """Vision tower, Q-Former, projection, and the residual where the model has one."""

    def __init__(self, config: StLlmConfig) -> None:
        super().__init__()
        width, qformer_width = config.text_config.hidden_size, config.qformer_config.hidden_size
        self.vision_tower = EvaVisionModel(
            config.vision_config,
            adapter_layers=config.adapter_layers,
            adapter_frames=config.adapter_frames,
        )
        self.qformer = InstructBlipQFormerModel(config.qformer_config)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, qformer_width))
        self.projection = nn.Linear(qformer_width, width)
        self.residual = GlobalResidual(config) if config.residual_size is not None else None

    def forward(
        self,
        pixel_values: Tensor,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Encode videos.

        Args:
            pixel_values: [B, T, 3, H, W] normalised as by ``StLlmProcessor``.
            qformer_input_ids: [B, L] the questions, for the Q-Former's tokenizer.
            qformer_attention_mask: [B, L] 1 for tokens, 0 for padding.

        Returns:
            [B, F, Q, C]: F is T, or the frames of residual mode.

        Raises:
            ValueError: frames of the wrong size or number; questions for another number of videos.
        """
        states = self.vision_tower(pixel_values.to(self.vision_tower.dtype))
        clips = states.shape[:2]  # [B, T]
        states = states.flatten(0, 1)
        queries = self.query_tokens.expand(len(states), -1, -1)
        mask = None
        if qformer_input_ids is not None:
            if len(qformer_input_ids) != clips[0]:
                raise ValueError(
                    f"qformer_input_ids must have a row for each of {clips[0]} videos, "
                    f"got {len(qformer_input_ids)}"
                )
            qformer_input_ids = qformer_input_ids.repeat_interleave(clips[1], dim=0)
            if qformer_attention_mask is not None:
                mask = qformer_attention_mask.repeat_interleave(clips[1], dim=0)
                mask = torch.cat((mask.new_ones(queries.shape[:2]), mask), dim=1)
        outputs = self.qformer(
            input_ids=qformer_input_ids,
            attention_mask=mask,
            query_embeds=queries,
            encoder_hidden_states=states,
        )
        answers = outputs.last_hidden_state[:, : queries.shape[1]]  # [B * T, Q, D]
        tokens = self.projection(answers).unflatten(0, clips)
        return tokens if self.residual is None else self.residual(tokens)
