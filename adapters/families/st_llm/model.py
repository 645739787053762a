"""ST-LLM: EVA-ViT-g, a Q-Former that reads the question, and Llama.

Two architectures were published: the QA model, whose vision tower has a branch over time and which
gives the language model the tokens of all frames, and the conversation model, which gives it those
of 16 frames, with the mean over all frames added ("residual" mode).

The visual tokens come first, at position 0, then BOS (``</s>``, id 2) and the text. In
``input_ids`` they are placeholders, one for each token, so that lengths, masks and positions are
right from the start, in ``generate`` and in pruning alike; ``StLlmProcessor`` puts them there. To
ids without placeholders, ``generate`` and ``forward`` add them, after the padding. (Tried and
rejected: growing the sequence inside ``forward``, where ``generate`` counts tokens that it never
sees; giving ``generate`` embeddings, which leaves its logits processors without a prompt.)

The published evaluations give ``generate`` no ids, so ``repetition_penalty`` counts only what was
answered; to do the same here, pass ``RepetitionPenaltyLogitsProcessor(penalty,
prompt_ignore_length=prompt_length)`` in ``logits_processor`` instead. Answers end at ``</s>``, or
before ``###``: see ``generation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...checkpoint.files import Checkpoint, open_checkpoint
from ...checkpoint.loading import LoadReport, check_weights
from ...checkpoint.video_llm import VideoLlm
from ...engine.cache import given_cache
from ...engine.calls import is_first
from .checkpoint import IGNORED, recipes
from .config import BOS_ID, EOS_ID, PAD_ID, StLlmConfig
from .encoder import VideoEncoder


class StLlm(VideoLlm):
    """ST-LLM with its language modelling head; see the module for the form of a prompt."""

    config_class = StLlmConfig
    input_modalities = ("video", "text")
    _no_split_modules = [
        "InstructBlipEncoderLayer",
        "InstructBlipQFormerLayer",
        "LlamaDecoderLayer",
        "TemporalLayer",
    ]

    def __init__(self, config: StLlmConfig) -> None:
        super().__init__(config)
        self.video_encoder = VideoEncoder(config)
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
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> StLlm:
        """Load a checkpoint folder: one of the two published ones, or what this class saved.

        Args:
            path: the folder; nothing is downloaded.
            dtype: of the model; None: as stored.
            device: of the model.

        Returns:
            The model, in eval mode.

        Raises:
            CheckpointError: files missing, damaged or unsafe; weights that do not fit, with a
                report.
        """
        checkpoint = open_checkpoint(Path(path))
        config = StLlmConfig.read(checkpoint.folder, checkpoint.tensors)
        config.require_heads(checkpoint.folder)
        model = cls._empty(config)
        return model._fill(checkpoint, recipes(checkpoint.tensors), IGNORED, dtype, device)

    @classmethod
    def check_pretrained(cls, checkpoint: Checkpoint) -> LoadReport:
        """Whether :meth:`from_pretrained` would find every weight; reads headers only.

        Raises:
            CheckpointError: a config.json or tensors that do not describe an ST-LLM.
        """
        keys = checkpoint.tensors
        config = StLlmConfig.read(checkpoint.folder, keys)
        config.require_heads(checkpoint.folder)
        return check_weights(cls._empty(config), keys, recipes(keys), ignore=IGNORED)

    def encode_videos(
        self,
        pixel_values: Tensor,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Tokens [B, F, Q, C] of B videos [B, T, 3, H, W], or of one [T, 3, H, W]; see
        :class:`~.encoder.VideoEncoder`."""
        return self.video_encoder(as_clips(pixel_values), qformer_input_ids, qformer_attention_mask)

    def add_placeholders(
        self, input_ids: Tensor, attention_mask: Any, count: int
    ) -> tuple[Tensor, Any]:
        """Put the placeholders of a video in front of prompts that have none.

        Args:
            input_ids: [B, S].
            attention_mask: [B, S], or None; zeros on the left are padding.
            count: visual tokens of a video.

        Returns:
            Ids and mask [B, count + S], the placeholders after the padding; the same objects if
            there are placeholders.

        Raises:
            ValueError: a mask that cannot grow.
        """
        if (input_ids == self.config.video_token_id).any():
            return input_ids, attention_mask
        padding = [0] * len(input_ids)
        if attention_mask is not None:
            if not isinstance(attention_mask, Tensor) or attention_mask.shape != input_ids.shape:
                raise ValueError(
                    "attention_mask must be [B, S] like input_ids where these have no placeholders"
                )
            padding = (attention_mask.cumsum(dim=1) == 0).sum(dim=1).tolist()
        fill = self.config.video_token_id
        ids = _insert(input_ids, padding, count, fill)
        return ids, None if attention_mask is None else _insert(attention_mask, padding, count, 1)

    def video_starts(self, input_ids: Tensor, count: int) -> list[int]:
        """Where the video of each prompt begins, placeholders in place.

        Raises:
            ValueError: placeholders that are not ``count`` in a row.
        """
        starts = []
        for row in input_ids.cpu():
            places = (row == self.config.video_token_id).nonzero()[:, 0]
            if len(places) != count or places[-1] - places[0] != count - 1:
                is_cut = len(places) < count and row[-1] == self.config.video_token_id
                cut = "; a prompt cannot be cut by prefill_chunk_size" if is_cut else ""
                raise ValueError(
                    f"this video has {count} visual tokens, in a row in front of the prompt; the "
                    f"prompt has {len(places)} placeholders (id {self.config.video_token_id}){cut}"
                )
            starts.append(int(places[0]))
        return starts

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """transformers' ``generate``; arguments also as in :meth:`forward`. Returned sequences
        begin with the placeholders. A video is encoded once, whatever the number of beams."""
        if inputs is None:
            inputs = kwargs.pop("input_ids", None)
        pixels = kwargs.pop("pixel_values", None)
        question = [kwargs.pop(f"qformer_{part}", None) for part in ("input_ids", "attention_mask")]
        if pixels is not None:
            kwargs["video_features"] = self.encode_videos(pixels, *question)
        features = kwargs.get("video_features")
        if inputs is not None:
            mask = kwargs.get("attention_mask")
            if mask is None:  # not to be guessed from the ids: BOS has that of padding
                mask = torch.ones_like(inputs)
            if features is not None:
                inputs, mask = self.add_placeholders(inputs, mask, features.shape[1:3].numel())
            kwargs["attention_mask"] = mask
        return super().generate(inputs, *args, **kwargs)

    # transformers looks for the names of generate's arguments in the signature.
    @wraps(VideoLlm.prepare_inputs_for_generation)
    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        if not is_first_iteration and kwargs.get("use_cache", True):
            kwargs.pop("video_features", None)  # in the cache by now
        return super().prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, **kwargs
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        video_features: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One call; further arguments are ``LlamaForCausalLM``'s, its cache among them.

        Args:
            input_ids: [B, S]; with placeholders or without, see the module.
            pixel_values: see :meth:`encode_videos`; with the call that begins a sequence.
            qformer_input_ids: see :meth:`encode_videos`.
            qformer_attention_mask: see :meth:`encode_videos`.
            attention_mask: [B, past + S], as long as the ids are.
            position_ids: [B, S]; with placeholders only.
            inputs_embeds: [B, S, C] instead of ids, for text or for videos in place already.
            video_features: [B, F, Q, C] from :meth:`encode_videos`, instead of pixels.
            logits_to_keep: of how many last tokens, or of which, to give logits; 0: of all.

        Raises:
            ValueError: placeholders and videos that do not belong together; a video that does not
                begin its sequence.
        """
        if pixel_values is not None:
            if video_features is not None:
                raise ValueError("pixel_values and video_features: give one of them")
            video_features = self.encode_videos(
                pixel_values, qformer_input_ids, qformer_attention_mask
            )
        if video_features is not None:
            if input_ids is None or inputs_embeds is not None:
                raise ValueError("pixel_values need input_ids, and no inputs_embeds")
            if not is_first(given_cache(kwargs), input_ids.shape[1]):
                raise ValueError("ST-LLM takes one video, in front: the cache is not empty")
            count, length = video_features.shape[1:3].numel(), input_ids.shape[1]
            input_ids, attention_mask = self.add_placeholders(input_ids, attention_mask, count)
            if position_ids is not None and input_ids.shape[1] != length:
                raise ValueError("position_ids need a placeholder for each visual token")
            inputs_embeds, input_ids = self._place(input_ids, video_features), None
        return self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def _place(self, input_ids: Tensor, features: Tensor) -> Tensor:
        """[B, S, C] embeddings of the prompts, with the visual tokens in their places."""
        if len(features) != len(input_ids):
            raise ValueError(f"{len(features)} videos for {len(input_ids)} prompts")
        self.video_starts(input_ids, features.shape[1:3].numel())
        return self._embed(input_ids, self.config.video_token_id, features)


def as_clips(pixel_values: Tensor) -> Tensor:
    """[B, T, 3, H, W]"""
    return pixel_values[None] if pixel_values.ndim == 4 else pixel_values


def _insert(rows: Tensor, places: Sequence[int], count: int, value: int) -> Tensor:
    """[B, S] -> [B, S + count]: ``count`` times ``value`` at another place in each row."""
    fill = rows.new_full((count,), value)
    return torch.stack(
        [
            torch.cat((row[:place], fill, row[place:]))
            for row, place in zip(rows, places, strict=True)
        ]
    )
