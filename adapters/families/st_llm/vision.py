"""ST-LLM's vision tower: EVA-ViT-g, and the branch over time that runs beside its last blocks.

EVA-ViT-g is transformers' ``InstructBlipVisionModel``, whose own forward cannot be used: the branch
(BT-Adapter, "One For All: Video Conversation is Feasible Without Video Instruction Tuning", Liu et
al., 2023) takes what each of the last blocks gives, so the blocks run one by one here. The class
tokens' way through the branch is in no paper; it was found from the numbers of the reference data
and is held to them by the tests.

LayerNorm is torch's, which reduces and scales in float32 whatever the dtype, and rounds once, as
the published model's casts to float32 and back do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel
from transformers.models.instructblip.modeling_instructblip import (
    InstructBlipAttention,
    InstructBlipEncoderLayer,
)

_OUTER_NORM_EPS = 1e-5  # of the norm after the last block and of the branch's layers over space


class TemporalLayer(nn.Module):
    """Attention of each patch position over the frames."""

    def __init__(self, config: InstructBlipVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.self_attn = InstructBlipAttention(config)
        self.projection = nn.Linear(width, width)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, T, N, C] -> the same."""
        batch = patches.shape[0]
        rows = patches.transpose(1, 2).flatten(0, 1)  # [B * N, T, C]
        rows = rows + self.projection(self.self_attn(self.layer_norm1(rows))[0])
        return rows.unflatten(0, (batch, -1)).transpose(1, 2)


class BtAdapter(nn.Module):
    """A branch with one class token a clip: a layer over time, then one over space, beside each of
    the last blocks.

    Args:
        config: of the vision tower.
        num_layers: how many blocks it runs beside.
        max_frames: the longest clip.
    """

    def __init__(self, config: InstructBlipVisionConfig, num_layers: int, max_frames: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embedding = nn.Embedding(max_frames, config.hidden_size)
        self.temporal = nn.ModuleList(TemporalLayer(config) for _ in range(num_layers))
        self.spatial = nn.ModuleList(InstructBlipEncoderLayer(config) for _ in range(num_layers))
        layer: Any
        for layer in self.spatial:
            layer.layer_norm1.eps = layer.layer_norm2.eps = _OUTER_NORM_EPS

    def start(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """The branch's first input.

        Args:
            hidden: [B, T, 1 + N, C] what the first of the last blocks gave.
            positions: [1, 1 + N, C] the tower's position embedding.

        Returns:
            [B, T, 1 + N, C]; the class token is the same in each frame.
        """
        own = (self.class_embedding + positions[:, :1])[:, None]  # [1, 1, 1, C]
        token = (own + hidden[:, :, :1].mean(dim=1, keepdim=True)) / 2
        time = self.position_embedding.weight[: hidden.shape[1], None]  # [T, 1, C]
        return _with_class_token(token, hidden[:, :, 1:] + positions[:, 1:] + time)

    def step(self, index: int, branch: Tensor) -> Tensor:
        """Layer ``index`` on [B, T, 1 + N, C]."""
        branch = _with_class_token(branch[:, :1, :1], self.temporal[index](branch[:, :, 1:]))
        layer: Any = self.spatial[index]
        frames = layer.self_attn(layer.layer_norm1(branch.flatten(0, 1)))[0]
        branch = branch + _share_class_token(frames.view_as(branch))
        return branch + layer.mlp(layer.layer_norm2(branch))


class EvaVisionModel(InstructBlipVisionModel):
    """EVA-ViT-g, with or without the branch.

    Args:
        config: of the tower.
        adapter_layers: layers of the branch; 0: there is none.
        adapter_frames: frames that the branch has positions for.
    """

    def __init__(
        self, config: InstructBlipVisionConfig, *, adapter_layers: int = 0, adapter_frames: int = 64
    ) -> None:
        super().__init__(config)
        self.post_layernorm.eps = _OUTER_NORM_EPS
        self.first_adapted = config.num_hidden_layers - adapter_layers
        self.adapter_frames = adapter_frames
        self.adapter = BtAdapter(config, adapter_layers, adapter_frames) if adapter_layers else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode clips.

        Args:
            pixel_values: [B, T, 3, H, W].

        Returns:
            [B, T, 1 + N, C], class token first.

        Raises:
            ValueError: frames of another size than the tower's, more of them than the branch has
                positions for.
        """
        side = self.config.image_size
        if pixel_values.ndim != 5 or pixel_values.shape[2:] != (3, side, side):
            raise ValueError(
                f"pixel_values must be [clips, frames, 3, {side}, {side}], "
                f"got {list(pixel_values.shape)}"
            )
        clips = pixel_values.shape[:2]
        if self.adapter is not None and clips[1] > self.adapter_frames:
            raise ValueError(
                f"this model takes at most {self.adapter_frames} frames, got {clips[1]}"
            )
        hidden = self.embeddings(pixel_values.flatten(0, 1))  # [B * T, 1 + N, C]
        branch = None
        for index, block in enumerate(self.encoder.layers):
            hidden = block(hidden)
            if self.adapter is not None and index >= self.first_adapted:
                frames = hidden.unflatten(0, clips)
                if branch is None:
                    branch = self.adapter.start(frames, self.embeddings.position_embedding)
                else:
                    branch = branch + _share_class_token(frames)
                branch = self.adapter.step(index - self.first_adapted, branch)
        hidden = hidden.unflatten(0, clips)
        if branch is not None:
            hidden = (hidden + branch) / 2
        return self.post_layernorm(hidden)


def _share_class_token(frames: Tensor) -> Tensor:
    """[B, T, 1 + N, C] with each frame's class token replaced by the mean over the frames."""
    return _with_class_token(frames[:, :, :1].mean(dim=1, keepdim=True), frames[:, :, 1:])


def _with_class_token(token: Tensor, patches: Tensor) -> Tensor:
    """[B, 1, 1, C] and [B, T, N, C] -> [B, T, 1 + N, C]."""
    batch, frames = patches.shape[:2]
    return torch.cat((token.expand(batch, frames, -1, -1), patches), dim=2)
