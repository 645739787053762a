"""The families whose frames stand apart in a prompt, through the interface of :mod:`families`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import tiny_frames
import tiny_models
import torch
from families import FrameByFrame, Shown, attentions_of
from slow_baselines import watched
from tiny_models import IMAGE_ID, TOKENS_PER_FRAME, clip, text_tokens
from torch import Tensor

from prunevid_kernels.adapters import PromptVisuals, PruneHandle, VideoSpan


class ImageFrames(FrameByFrame):
    """A frame is an image with text around it, of which a call tells nothing; here, four tokens
    before a frame and one after it."""

    video_id = IMAGE_ID

    def video(self, frames: int) -> list[int]:
        ids = []
        for frame in range(frames):
            ids += [*text_tokens(4, 70 + frame), *[self.video_id] * TOKENS_PER_FRAME, 8]
        return ids

    def spans(self, ids: list[int]) -> list[list[int]]:
        """The first places of the frames of each video; videos are parted by more text."""
        visual = self.video_id
        starts = [i for i, t in enumerate(ids) if t == visual and ids[i - 1] != visual]
        videos: list[list[int]] = []
        for start in starts:
            if not videos or start != videos[-1][-1] + TOKENS_PER_FRAME + 5:
                videos.append([])
            videos[-1].append(start)
        return videos

    def telling(self, handle: PruneHandle, inputs: dict[str, Tensor]) -> Any:
        if self.pixels not in inputs:
            return nullcontext()
        return handle.videos(
            [
                PromptVisuals(
                    tuple(VideoSpan.apart(s, TOKENS_PER_FRAME) for s in self.spans(ids.tolist()))
                )
                for ids in inputs["input_ids"]
            ]
        )

    def prompts(self, model: Any, inputs: dict[str, Tensor]) -> list[list[Any]]:
        videos = iter(self.features(model, inputs))
        prompts = []
        for padded, mask in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
            ids, pieces, place = padded[mask].tolist(), [], 0
            for starts in self.spans(ids):
                stops = [start + TOKENS_PER_FRAME for start in starts]
                gaps = zip(stops[:-1], starts[1:], strict=True)
                between = [ids[stop:start] for stop, start in gaps]
                pieces += [("text", ids[place : starts[0]]), ("frames", (next(videos), between))]
                place = stops[-1]
            prompts.append([*pieces, ("text", ids[place:])])
        return prompts


@dataclass(frozen=True)
class InternVL(ImageFrames):
    """``kind``: of the decoder."""

    name: str = "internvl"
    kind: str = "qwen2"

    def build(self, attention: str = "sdpa") -> Any:
        return tiny_frames.internvl(self.kind, attention)

    def features(self, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        pixels = inputs["pixel_values"]
        frames = 6 if len(pixels) == 6 else 4
        return list(model.model.get_image_features(pixels).pooler_output.split(frames))

    def shown(self, model: Any, inputs: dict[str, Tensor]) -> list[Shown]:
        """What CLS pays to a patch in the last layer; 2 x 2 pooled."""
        attention = model.model.vision_tower.encoder.layer[-1].attention
        weights, keys = watched(attention, attention.k_proj, lambda: model(**inputs))
        rows = torch.cat((weights[:, :, 0, 1:].mean(dim=1)[..., None], keys[:, 1:]), dim=-1)
        pooled = rows.unflatten(1, (4, 2, 4, 2)).mean(dim=(2, 4)).flatten(1, 2)
        videos = pooled.split(6 if len(pooled) == 6 else 4)
        return [(video[..., 0], video[..., 1:]) for video in videos]


class SmolVLM(ImageFrames):
    name = "smolvlm"

    def build(self, attention: str = "sdpa") -> Any:
        return tiny_frames.smolvlm(attention)

    def inputs(self, prompts: list[list[int]], clips: list[Tensor]) -> dict[str, Tensor]:
        """Videos of one row stand together in the pixels, which are padded with empty frames."""
        inputs = super().inputs(prompts, clips)
        if clips:
            given = iter(clips)
            rows = [torch.cat([clip(0), *[next(given) for _ in self.spans(p)]]) for p in prompts]
            longest = max(map(len, rows))
            pad = (0, 0, 0, 0, 0, 0)
            inputs[self.pixels] = torch.stack(
                [torch.nn.functional.pad(row, (*pad, 0, longest - len(row))) for row in rows]
            )
        return inputs

    def features(self, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        found = model.model.get_image_features(inputs["pixel_values"]).pooler_output
        # Newer versions give one tensor a prompt.
        tokens = found.flatten(0, 1) if isinstance(found, Tensor) else torch.cat(found)
        frames = tokens.unflatten(0, (-1, TOKENS_PER_FRAME))
        return list(frames.split(6 if len(frames) == 6 else 4))

    def shown(self, model: Any, inputs: dict[str, Tensor]) -> list[Shown]:
        """What a patch receives from all in the last layer; 2 x 2 pooled."""
        attention = attentions_of(model.model.vision_model)[-1]
        weights, keys = watched(attention, attention.k_proj, lambda: model(**inputs))
        rows = torch.cat((weights.mean(dim=(1, 2))[..., None], keys), dim=-1)
        pooled = rows.unflatten(1, (4, 2, 4, 2)).mean(dim=(2, 4)).flatten(1, 2)
        videos = pooled.split(6 if len(pooled) == 6 else 4)
        return [(video[..., 0], video[..., 1:]) for video in videos]


class VideoLlama3(ImageFrames):
    """Frames apart that a call tells."""

    name, video_id, pixels = "video_llama_3", tiny_models.VIDEO_ID, "pixel_values_videos"

    def build(self, attention: str = "sdpa") -> Any:
        return tiny_frames.video_llama_3(attention)

    def telling(self, handle: PruneHandle, inputs: dict[str, Tensor]) -> Any:
        return nullcontext()

    def inputs(self, prompts: list[list[int]], clips: list[Tensor]) -> dict[str, Tensor]:
        inputs = super().inputs(prompts, clips)
        if clips:
            inputs["video_grid_thw"] = torch.tensor([[len(clip), 8, 8] for clip in clips])
            inputs["video_merge_sizes"] = torch.tensor([2] * len(clips))
        return inputs

    def stacked(self, clips: list[Tensor]) -> Tensor:
        """Patches in blocks of 2 x 2."""
        blocks = torch.cat(clips).unflatten(3, (4, 2, 4)).unflatten(2, (4, 2, 4))
        return blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(0, 4).flatten(1)

    def features(self, model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
        names = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")
        videos = model.model.get_video_features(*[inputs[name] for name in names]).pooler_output
        return [video.unflatten(0, (-1, TOKENS_PER_FRAME)) for video in videos]

    def shown(self, model: Any, inputs: dict[str, Tensor]) -> list[Shown]:
        raise AssertionError("this family names no attention that ranks its tokens")


INTERNVL, INTERNVL_3_5 = InternVL(), InternVL("internvl3.5", "qwen3")
SMOLVLM, VIDEO_LLAMA_3 = SmolVLM(), VideoLlama3()
