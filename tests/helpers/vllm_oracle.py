"""The same answers from transformers: its features, our merge, a decoder run token by token.

Nothing of the plugin is used. Where a video is one run of the prompt, the prompt's embeddings and
positions are put together in plain Python, and each new token runs the whole sequence again,
without a cache. Where frames stand apart, our adapter for transformers prunes ``generate``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm_engines import (
    APART,
    DTYPE,
    FPS,
    IMAGE_PLACEHOLDERS,
    MAX_TOKENS,
    PLACEHOLDERS,
    metadata,
)

from prunevid_kernels import PruneVidConfig, budget_tokens, merge_video
from prunevid_kernels.adapters import prune


class Oracle:
    """One checkpoint in transformers, on the CPU, in the dtype of the engine."""

    def __init__(self, checkpoint: Path) -> None:
        self.family = checkpoint.name
        dtype = getattr(torch, DTYPE.get(self.family, "float32"))
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype)
        self.model.eval()
        self.model.generation_config.eos_token_id = None  # answers have MAX_TOKENS tokens
        self.processor = AutoProcessor.from_pretrained(checkpoint)

    @torch.no_grad()
    def answer(
        self, video: NDArray[np.uint8], retain: float, text: str = "\nwhat happens?"
    ) -> tuple[int, tuple[int, ...]]:
        """Prompt length and greedy tokens."""
        if self.family in APART:
            return self._from_adapter(video, retain, text)
        tokenizer = self.processor.tokenizer
        before = [] if self.family == "llava_onevision" else [self._id("<|vision_start|>")]
        after = [] if self.family == "llava_onevision" else [self._id("<|vision_end|>")]
        after += tokenizer(text, add_special_tokens=False)["input_ids"]
        visual, visual_positions, extent = self._visual(video, retain)
        embed = self.model.get_input_embeddings()
        embeddings = torch.cat([embed(torch.tensor([before])[0].long()), visual])
        embeddings = torch.cat([embeddings, embed(torch.tensor(after))])
        start = len(before) + extent
        positions = torch.cat(
            [
                torch.arange(len(before)).expand(3, -1),
                len(before) + visual_positions,
                (start + torch.arange(len(after) + MAX_TOKENS)).expand(3, -1),
            ],
            dim=1,
        )
        length, tokens = len(embeddings), []
        for _ in range(MAX_TOKENS):
            tokens.append(self._next(embeddings, positions[:, : len(embeddings)]))
            embeddings = torch.cat([embeddings, embed(torch.tensor(tokens[-1:]))])
        return length, tuple(tokens)

    @torch.no_grad()
    def answer_about_image(
        self, picture: NDArray[np.uint8], text: str
    ) -> tuple[int, tuple[int, ...]]:
        """Prompt length and greedy tokens from ``generate``: images are not merged."""
        prompt = IMAGE_PLACEHOLDERS[self.family] + text
        inputs = self.processor(text=prompt, images=[picture], return_tensors="pt")
        output = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        length = inputs["input_ids"].shape[1]
        return length, tuple(output[0, length:].tolist())

    def _from_adapter(
        self, video: NDArray[np.uint8], retain: float, text: str
    ) -> tuple[int, tuple[int, ...]]:
        inputs = self.processor(
            text=PLACEHOLDERS[self.family] + text,
            videos=[video],
            video_metadata=[_facts(video)],
            do_sample_frames=False,
            return_tensors="pt",
        )
        frames, rows, columns = inputs["video_grid_thw"][0].tolist()
        tokens_per_frame = rows * columns // 4
        length = inputs["input_ids"].shape[1]
        with prune(self.model, PruneVidConfig(budget=float(retain), select=False)):
            output = self.model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        merged = budget_tokens(frames, tokens_per_frame, retain)
        tokens = tuple(output[0, length:].tolist())
        return length - frames * tokens_per_frame + merged, tokens

    def _id(self, token: str) -> int:
        return int(self.processor.tokenizer.convert_tokens_to_ids(token))

    def _next(self, embeddings: Tensor, positions: Tensor) -> int:
        position_ids = positions[:, None] if self.family == "qwen2_5_vl" else positions[:1]
        hidden = self.model.model.language_model(
            inputs_embeds=embeddings[None], position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return int(self.model.lm_head(hidden[0, -1]).argmax())

    def _visual(self, video: NDArray[np.uint8], retain: float) -> tuple[Tensor, Tensor, int]:
        """A video's tokens [K, C], their positions [3, K] counted from its start, and how many
        positions it takes."""
        if self.family == "llava_onevision":
            tokens = self._llava(video, retain)
            return tokens, torch.arange(len(tokens)).expand(3, -1), len(tokens)
        return self._qwen(video, retain)

    def _llava(self, video: NDArray[np.uint8], retain: float) -> Tensor:
        core = self.model.model
        inputs = self.processor.video_processor(list(video), return_tensors="pt")
        pixels = inputs["pixel_values_videos"][0]
        hidden = core.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        features = core.apply_pooling(core.multi_modal_projector(hidden))  # [T, N, C]
        return torch.cat([_merged(features, retain).tokens, core.image_newline[None]])

    def _qwen(self, video: NDArray[np.uint8], retain: float) -> tuple[Tensor, Tensor, int]:
        inputs = self.processor.video_processor(
            [video], video_metadata=[_facts(video)], do_sample_frames=False, return_tensors="pt"
        )
        grid = inputs["video_grid_thw"]
        frames, rows, columns = (grid[0] // torch.tensor([1, 2, 2])).tolist()
        features = self.model.model.visual(inputs["pixel_values_videos"], grid_thw=grid)
        features = getattr(features, "pooler_output", features)
        merged = _merged(features.view(frames, rows * columns, -1), retain)
        step = 2 / FPS * self.model.config.vision_config.tokens_per_second  # two frames a token
        places = []
        for anchor in merged.layout.merged_anchor.tolist():
            frame, place = divmod(anchor, rows * columns)
            places.append([int(frame * step), *divmod(place, columns)])
        extent = max(int((frames - 1) * step) + 1, rows, columns)
        return merged.tokens, torch.tensor(places).T, extent


def _facts(video: NDArray[np.uint8]) -> dict[str, Any]:
    return {k: v for k, v in metadata(len(video)).items() if k != "do_sample_frames"}


def _merged(features: Tensor, retain: float) -> Any:
    budget = budget_tokens(features.shape[0], features.shape[1], retain)
    return merge_video(features, PruneVidConfig(budget=budget), impl="reference")
