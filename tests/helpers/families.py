"""The video models through one interface, for tests that hold for each of them.

A family builds its tiny model, makes prompts for it, and says what the slow code needs to know: the
pieces of which the decoder's input is made, and what the vision side looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import tiny_frames
import tiny_models
import tiny_pllava
import tiny_st_llm
import torch
from slow_baselines import watched
from slow_pruning import SlowDecoder, cut
from tiny_models import clip, left_pad, text_tokens
from torch import Tensor

from prunevid_kernels.adapters import PruneHandle

Shown = tuple[Tensor, Tensor]  # of one video: importance [T, N] and keys [T, N, D], float64

_llava = cache(tiny_models.llava)


class Family(ABC):
    """One of them; what differs is below."""

    name: str
    video_id: int

    @abstractmethod
    def build(self, attention: str = "sdpa") -> Any:
        """The model, the same object for the same attention."""

    @abstractmethod
    def question(self) -> dict[str, Tensor]:
        """The inputs of one prompt with one video."""

    @abstractmethod
    def batch(self) -> dict[str, Tensor]:
        """Three prompts of different length: with one, two and no videos where the model allows."""

    @abstractmethod
    def features(self, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        """[T, N, C] of each video of all prompts, in order."""

    @abstractmethod
    def shown(self, model: Any, inputs: dict[str, Tensor]) -> list[Shown]:
        """What an eager model's vision side makes of each video, frame by frame."""

    def newline(self, model: Any) -> Tensor | None:
        """The embedding [1, C] after a video."""
        return None

    def prompts(self, model: Any, inputs: dict[str, Tensor]) -> list[list[Any]]:
        """The pieces of each prompt for :class:`SlowDecoder`."""
        videos = iter(self.features(model, inputs))
        rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
        newline = self.newline(model)
        return [cut(ids[own].tolist(), self.video_id, videos, newline) for ids, own in rows]

    def telling(self, handle: PruneHandle, inputs: dict[str, Tensor]) -> Any:
        """Inside it, the videos of the next prompt are known."""
        return nullcontext()

    def slow(self, model: Any, kind: type[SlowDecoder], *options: Any) -> SlowDecoder:
        """A slow decoder with this model's weights."""
        return kind(model.get_decoder(), model.get_output_embeddings(), *options)


class LlavaOnevision(Family):
    name, video_id = "llava_onevision", tiny_models.VIDEO_ID

    def build(self, attention: str = "sdpa") -> Any:
        return _llava("qwen2", attention)

    def question(self) -> dict[str, Tensor]:
        return tiny_models.question(frames=6)

    def batch(self) -> dict[str, Tensor]:
        ids, mask = left_pad(_three_prompts(tiny_models.video_tokens(4)))
        clips = torch.stack([clip(4, seed) for seed in range(3)])
        return {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": clips}

    def features(self, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        return [tiny_models.features(model, video) for video in inputs["pixel_values_videos"]]

    def newline(self, model: Any) -> Tensor:
        return model.model.image_newline[None]

    def shown(self, model: Any, inputs: dict[str, Tensor]) -> list[Shown]:
        """What a patch receives from all; pooled by the model."""
        core = model.model
        attention = attentions_of(core.vision_tower)[-1]
        weights, keys = watched(attention, attention.k_proj, lambda: model(**inputs))
        received = weights.mean(dim=(1, 2))[..., None]
        received, keys = (core.apply_pooling(rows.float()).double() for rows in (received, keys))
        size = inputs["pixel_values_videos"].shape[1]
        return list(zip(received[..., 0].split(size), keys.split(size), strict=True))


@dataclass(frozen=True)
class Pllava(Family):
    """``frames``: fewer than the model's are repeated."""

    name: str = "pllava"
    frames: int = tiny_pllava.FRAMES

    video_id = tiny_pllava.IMAGE_ID

    def build(self, attention: str = "sdpa") -> Any:
        return tiny_pllava.random_model(attention)

    def question(self) -> dict[str, Tensor]:
        return tiny_pllava.question() | {"pixel_values": clip(self.frames)[None]}

    def batch(self) -> dict[str, Tensor]:
        return tiny_pllava.batch(
            _three_prompts([tiny_pllava.IMAGE_ID] * tiny_pllava.TOKENS), [1, 2, 3]
        )

    def features(self, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        size = (tiny_pllava.FRAMES, tiny_pllava.TOKENS_PER_FRAME)
        return list(model.encode_videos(inputs["pixel_values"]).unflatten(1, size))

    def shown(self, model: Any, inputs: dict[str, Tensor]) -> list[Shown]:
        """What CLS pays to a patch, in the layer whose output is projected; 2 x 2 pooled."""
        attention = attentions_of(model.vision_tower)[-2]
        weights, keys = watched(attention, attention.k_proj, lambda: model(**inputs))
        rows = torch.cat((weights[:, :, 0, 1:].mean(dim=1)[..., None], keys[:, 1:]), dim=-1)
        pooled = rows.unflatten(1, (4, 2, 4, 2)).mean(dim=(2, 4)).flatten(1, 2)  # [V * T, 16, 1+D]
        repeats = 1
        if self.frames < tiny_pllava.FRAMES:
            repeats += tiny_pllava.FRAMES // self.frames
        videos = (
            video.repeat_interleave(repeats, dim=0)[: tiny_pllava.FRAMES]
            for video in pooled.split(self.frames)
        )
        return [(video[..., 0], video[..., 1:]) for video in videos]


@dataclass(frozen=True)
class StLlm(Family):
    """``residual_size``: of so many ``frames``, these are kept."""

    name: str = "st_llm"
    frames: int = 4
    residual_size: int | None = None

    video_id = 0

    def build(self, attention: str = "sdpa") -> Any:
        return tiny_st_llm.random_model(attention, self.residual_size)

    def question(self) -> dict[str, Tensor]:
        return tiny_st_llm.question(self.frames, visual_frames=self.residual_size)

    def batch(self) -> dict[str, Tensor]:
        lengths = enumerate((4, 9, 6))
        return tiny_st_llm.batch(
            *(
                tiny_st_llm.question(self.frames, seed, words, self.residual_size)
                for seed, words in lengths
            )
        )

    def features(self, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        return list(model.encode_videos(inputs["pixel_values"], inputs["qformer_input_ids"]))

    def shown(self, model: Any, inputs: dict[str, Tensor]) -> list[Shown]:
        """What a query receives from the queries, the question beside them left out."""
        attention = model.video_encoder.qformer.encoder.layer[-1].attention.attention
        weights, keys = watched(attention, attention.key, lambda: model(**inputs))
        queries = slice(tiny_st_llm.QUERIES)
        among = weights[:, :, queries, queries]
        received = (among / among.sum(dim=-1, keepdim=True)).mean(dim=(1, 2))
        chosen = list(range(self.frames))
        if self.residual_size is not None:
            step = self.frames / self.residual_size
            chosen = [int(step / 2 + round(step * i)) for i in range(self.residual_size)]
        videos = zip(received.split(self.frames), keys.split(self.frames), strict=True)
        return [(video[chosen], rows[chosen][:, queries]) for video, rows in videos]


class FrameByFrame(Family):
    """A family whose tower sees square frames one by one, in prompts that are made alike."""

    pixels = "pixel_values"

    @abstractmethod
    def video(self, frames: int) -> list[int]:
        """The tokens of a video in a prompt."""

    def inputs(self, prompts: list[list[int]], clips: list[Tensor]) -> dict[str, Tensor]:
        """A batch of prompts, and the clips of all of them, equally long."""
        ids, mask = left_pad(prompts)
        inputs = {"input_ids": ids, "attention_mask": mask}
        return inputs | ({self.pixels: self.stacked(clips)} if clips else {})

    def stacked(self, clips: list[Tensor]) -> Tensor:
        return torch.cat(clips)

    def question(self) -> dict[str, Tensor]:
        return self.inputs([text_tokens(5) + self.video(6) + text_tokens(7, 50)], [clip(6)])

    def batch(self) -> dict[str, Tensor]:
        return self.inputs(_three_prompts(self.video(4)), [clip(4, seed) for seed in range(3)])

    def alone(self) -> list[dict[str, Tensor]]:
        """The prompts of :meth:`batch`, each by itself."""
        clips = iter(clip(4, seed) for seed in range(3))
        prompts = zip(_three_prompts(self.video(4)), (1, 2, 0), strict=True)
        return [self.inputs([ids], [next(clips) for _ in range(count)]) for ids, count in prompts]


class LlavaNextVideo(FrameByFrame):
    name, video_id, pixels = "llava_next_video", tiny_models.VIDEO_ID, "pixel_values_videos"

    def build(self, attention: str = "sdpa") -> Any:
        return tiny_frames.llava_next_video(attention)

    def video(self, frames: int) -> list[int]:
        return tiny_models.video_tokens(frames)[1:]

    def stacked(self, clips: list[Tensor]) -> Tensor:
        return torch.stack(clips)

    def features(self, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        pixels = inputs["pixel_values_videos"]
        core = model.model
        hidden = core.vision_tower(pixels.flatten(0, 1), output_hidden_states=True).hidden_states
        patches = hidden[-2][:, 1:].unflatten(1, (4, 2, 4, 2)).mean(dim=(2, 4)).flatten(1, 2)
        return list(core.multi_modal_projector(patches).split(pixels.shape[1]))

    def shown(self, model: Any, inputs: dict[str, Tensor]) -> list[Shown]:
        """What CLS pays to a patch, in the layer whose output is projected; 2 x 2 pooled."""
        attention = attentions_of(model.model.vision_tower)[-2]
        weights, keys = watched(attention, attention.k_proj, lambda: model(**inputs))
        rows = torch.cat((weights[:, :, 0, 1:].mean(dim=1)[..., None], keys[:, 1:]), dim=-1)
        pooled = rows.unflatten(1, (4, 2, 4, 2)).mean(dim=(2, 4)).flatten(1, 2)
        videos = pooled.split(inputs["pixel_values_videos"].shape[1])
        return [(video[..., 0], video[..., 1:]) for video in videos]


def _three_prompts(video: list[int]) -> list[list[int]]:
    """With one video, with two, and with none."""
    return [
        text_tokens(3) + video + text_tokens(9, 1),
        text_tokens(2, 2) + video + text_tokens(4, 3) + video + text_tokens(5, 4),
        text_tokens(7, 5),
    ]


def attentions_of(tower: Any) -> list[Any]:
    """The self-attention of each layer of a transformers vision tower."""
    return [module for name, module in tower.named_modules() if name.endswith("self_attn")]


def each(*families: Family) -> Any:
    """Parametrise a test over these."""
    return pytest.mark.parametrize("family", families, ids=[family.name for family in families])


LLAVA_ONEVISION, PLLAVA, ST_LLM = LlavaOnevision(), Pllava(), StLlm()
LLAVA_NEXT_VIDEO = LlavaNextVideo()
FEW_FRAMES = Pllava("pllava-few-frames", frames=4)
RESIDUAL = StLlm("st_llm-residual", frames=11, residual_size=4)
FAMILIES: list[Family] = [LLAVA_ONEVISION, PLLAVA, ST_LLM, LLAVA_NEXT_VIDEO]
EACH_FAMILY, EACH_VARIANT = each(*FAMILIES), each(*FAMILIES, FEW_FRAMES, RESIDUAL)
