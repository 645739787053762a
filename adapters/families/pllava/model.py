"""PLLaVA: CLIP patches, a projector that pools over space and time, and Llama.

This class puts transformers' parts together: ``CLIPVisionModel``, ``LlamaForCausalLM``, and between
them the projector, which is all that is new.

A video's tokens stand in the prompt where ``<image>`` does, one placeholder for each token, as in
transformers' models today, so that lengths, masks and positions are right from the start. The
published code has a single ``<image>`` for the whole video; ``generate`` and ``forward`` take that
form too and repeat the placeholder first. (Tried and rejected: growing the sequence inside
``forward`` as the published code does; ``generate`` would count tokens that it never sees.)

Images are videos of one frame. Fewer frames than ``num_frames`` are repeated as published; more are
averaged by the pooling over time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel, GenerationConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...checkpoint.files import Checkpoint, open_checkpoint
from ...checkpoint.loading import LoadReport, check_weights
from ...checkpoint.video_llm import VideoLlm
from ...engine.cache import given_cache
from ...engine.calls import is_first
from .checkpoint import IGNORED, recipes, require_lora_alpha
from .config import BOS_ID, EOS_ID, PAD_ID, PllavaConfig


class PllavaProjector(nn.Module):
    """Patches of the vision tower to tokens of the language model."""

    def __init__(self, config: PllavaConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.config = config
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, width)
        self.linear_2 = nn.Linear(width, width)
        self.pooling = nn.AdaptiveAvgPool3d(tuple(config.pooling_shape))

    def forward(self, patches: Tensor) -> Tensor:
        """[V, T, P, D] patches of V videos -> [V, N, C] tokens, frame by frame, row by row."""
        return self.pool(self.linear_2(F.gelu(self.linear_1(patches))))

    def pool(self, tokens: Tensor) -> Tensor:
        """[V, T, P, C], whatever stands for each patch -> [V, N, C]"""
        # After the linear layers: they are the same for each copy.
        tokens = tokens[:, self.config.repeated_frames(tokens.shape[1])]
        tokens = tokens.unflatten(2, self.config.frame_shape)  # [V, T, rows, columns, C]
        pooled = self.pooling(tokens.permute(0, 4, 1, 2, 3))  # [V, C, T', rows', columns']
        return pooled.flatten(2).transpose(1, 2)


class Pllava(VideoLlm):
    """PLLaVA with its language modelling head; see the module for the form of a prompt."""

    config_class = PllavaConfig
    input_modalities = ("image", "text")
    _no_split_modules = ["CLIPEncoderLayer", "LlamaDecoderLayer"]
    _supports_flex_attn = True

    def __init__(self, config: PllavaConfig) -> None:
        super().__init__(config)
        self.vision_tower = CLIPVisionModel(config.vision_config)
        self.multi_modal_projector = PllavaProjector(config)
        self.language_model = LlamaForCausalLM(config.text_config)
        self.post_init()
        self.generation_config = GenerationConfig(
            bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        lora_alpha: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Pllava:
        """Load a checkpoint folder: the published one, merged ones, or what this class saved.

        Args:
            path: the folder; nothing is downloaded.
            lora_alpha: strength of the LoRA updates, which are folded into the weights in float32.
                Needed for the published layout, where no file says it; None for merged weights.
            dtype: of the model; None: as stored.
            device: of the model.

        Returns:
            The model, in eval mode.

        Raises:
            CheckpointError: files missing, damaged or unsafe; weights that do not fit, with a
                report; ``lora_alpha`` missing, or given without a use.
        """
        checkpoint = open_checkpoint(Path(path))
        require_lora_alpha(checkpoint.tensors, lora_alpha)
        model = cls._empty(PllavaConfig.read(checkpoint.folder))
        found = recipes(checkpoint.tensors, lora_alpha or 0.0)
        return model._fill(checkpoint, found, IGNORED, dtype, device)

    @classmethod
    def check_pretrained(cls, checkpoint: Checkpoint) -> LoadReport:
        """Whether :meth:`from_pretrained` would find every weight; reads headers only.

        Raises:
            CheckpointError: a config.json that does not describe a PLLaVA.
        """
        keys, model = checkpoint.tensors, cls._empty(PllavaConfig.read(checkpoint.folder))
        return check_weights(model, keys, recipes(keys, lora_alpha=0.0), ignore=IGNORED)

    def encode_videos(self, pixel_values: Tensor) -> Tensor:
        """[V, T, 3, H, W] normalised frames -> [V, N, C] tokens.

        Raises:
            ValueError: frames of another size than the tower's.
        """
        side = self.config.vision_config.image_size
        if pixel_values.shape[2:] != (3, side, side):
            raise ValueError(
                f"pixel_values must be [videos, frames, 3, {side}, {side}], "
                f"got {list(pixel_values.shape)}"
            )
        frames = pixel_values.flatten(0, 1).to(self.vision_tower.dtype)
        states = self.vision_tower(frames, output_hidden_states=True).hidden_states
        patches = states[self.config.vision_feature_layer][:, 1:]  # without CLS
        return self.multi_modal_projector(patches.unflatten(0, pixel_values.shape[:2]))

    def expand_placeholders(
        self, input_ids: Tensor, attention_mask: Any = None
    ) -> tuple[Tensor, Any]:
        """Repeat every ``<image>`` that stands alone once for each token of its video.

        Args:
            input_ids: [B, S].
            attention_mask: [B, past + S], or None.

        Returns:
            Ids and mask, longer; the same objects if there was nothing to repeat.

        Raises:
            ValueError: prompts of a batch that would grow differently; a mask that cannot grow.
        """
        is_video = F.pad(input_ids == self.config.image_token_index, (1, 1))
        alone = is_video[:, 1:-1] & ~is_video[:, :-2] & ~is_video[:, 2:]
        if self.config.tokens_per_video == 1 or not alone.any():
            return input_ids, attention_mask
        counts = alone.sum(dim=1)
        if (counts != counts[0]).any():
            raise ValueError(
                "the prompts of a batch must have equally many <image>, got "
                f"{counts.tolist()}; repeat <image> once for each visual token instead"
            )
        repeats = torch.where(alone, self.config.tokens_per_video, 1).flatten()
        batch, length = input_ids.shape
        if attention_mask is not None:
            if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
                raise ValueError("with a single <image> for a video, attention_mask must be 2-D")
            past, own = attention_mask[:, :-length], attention_mask[:, -length:]
            own = own.flatten().repeat_interleave(repeats).view(batch, -1)
            attention_mask = torch.cat((past, own), dim=1)
        return input_ids.flatten().repeat_interleave(repeats).view(batch, -1), attention_mask

    def video_starts(self, input_ids: Tensor) -> list[list[int]]:
        """Where the videos of each prompt begin, placeholders repeated.

        Raises:
            ValueError: a run of placeholders that is no whole number of videos.
        """
        width = self.config.tokens_per_video
        starts = []
        for row in input_ids.cpu():
            places = (row == self.config.image_token_index).nonzero()[:, 0]
            blocks = places[: len(places) // width * width].view(-1, width)
            if len(places) % width or (blocks[:, -1] - blocks[:, 0] != width - 1).any():
                raise ValueError(
                    f"a video of this PLLaVA has {width} tokens in a row, one <image> for each (or "
                    f"a single <image>); got {len(places)} in one prompt"
                )
            starts.append(blocks[:, 0].tolist())
        return starts

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """transformers' ``generate``. Returned sequences have the placeholders repeated.

        ``input_ids`` [B, S]; ``pixel_values`` [V, T, 3, H, W] of the V videos in the prompts, in
        order, or [T, 3, H, W] for one prompt; normalised as by ``PllavaProcessor``.
        """
        if inputs is None:
            inputs = kwargs.pop("input_ids", None)
        if kwargs.get("pixel_values") is not None and inputs is not None:
            kwargs["pixel_values"] = _as_videos(kwargs["pixel_values"], len(inputs))
            cache = given_cache(kwargs)
            fed = 0 if cache is None else int(cache.get_seq_length())
            new, mask = self.expand_placeholders(inputs[:, fed:], kwargs.get("attention_mask"))
            inputs = torch.cat((inputs[:, :fed], new), dim=1)
            if mask is not None:
                kwargs["attention_mask"] = mask
        return super().generate(inputs, *args, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One call; further arguments are ``LlamaForCausalLM``'s, its cache among them.

        Args:
            input_ids: [B, S]; placeholders repeated or single.
            pixel_values: see :meth:`generate`; with the call whose ids have the placeholders.
            attention_mask: [B, past + S], as long as the ids are.
            position_ids: [B, S]; with placeholders repeated only.
            inputs_embeds: [B, S, C] instead of ids, for text or for videos encoded already.
            logits_to_keep: logits of so many last tokens; 0: of all. ``generate`` looks for it.

        Raises:
            ValueError: placeholders and videos that do not belong together.
        """
        if pixel_values is not None:
            if input_ids is None or inputs_embeds is not None:
                raise ValueError("pixel_values need input_ids, and no inputs_embeds")
            videos = self.encode_videos(_as_videos(pixel_values, len(input_ids)))
            length = input_ids.shape[1]
            input_ids, attention_mask = self.expand_placeholders(input_ids, attention_mask)
            if position_ids is not None and input_ids.shape[1] != length:
                raise ValueError("position_ids need <image> once for each visual token")
            inputs_embeds, input_ids = self._place(input_ids, videos), None
        elif input_ids is not None and is_first(given_cache(kwargs), input_ids.shape[1]):
            if (input_ids == self.config.image_token_index).any():
                raise ValueError("the prompt has <image>, but no pixel_values came with it")
        return self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def _place(self, input_ids: Tensor, videos: Tensor) -> Tensor:
        """[B, S, C] embeddings of the prompts, with the videos' tokens in their places."""
        count = sum(map(len, self.video_starts(input_ids)))
        if count != len(videos):
            raise ValueError(f"the prompts have <image> for {count} of {len(videos)} videos")
        return self._embed(input_ids, self.config.image_token_index, videos)


def _as_videos(pixel_values: Tensor, batch: int) -> Tensor:
    """[V, T, 3, H, W]"""
    if pixel_values.ndim == 4 and batch == 1:
        return pixel_values[None]
    if pixel_values.ndim != 5:
        raise ValueError(
            f"pixel_values must be [videos, frames, 3, H, W] for {batch} prompts, or "
            f"[frames, 3, H, W] for one, got {list(pixel_values.shape)}"
        )
    return pixel_values
