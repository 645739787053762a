"""PLLaVA and ST-LLM, pruned, as models of lmms-eval.

    lmms-eval --model prunevid_pllava --tasks mvbench \\
        --model_args pretrained=DIR,lora_alpha=14,keep_ratio=0.4

lmms-eval has neither, so frames, prompts and answers are those of this project: the task's text is
the question, and a benchmark's frames are taken as ``prunevid eval`` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from loguru import logger
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..families import FAMILIES
from ..families.video_model import load_video_model
from ..video.reader import read_video
from ..video.sampling import frame_indices
from .pruning import PrunedModel, continuation_of, require_no_more, split_options


class _VideoLlm(lmms):
    """A model of this project with its processor: one video or image a prompt, one prompt at a
    time.

    Args:
        pretrained: checkpoint folder.
        device: a torch device; several processes take one each.
        dtype: a torch dtype's name; "auto": as stored, float32 on a CPU.
        batch_size: 1.
        max_frames_num: frames taken of a video; None: as many as the benchmark's published
            evaluation, or else the model, takes.
        system_prompt: the system message or a file with it.
        answer_prefix: how every generated answer begins, such as "Best option:(".
        **arguments: options that the family's loading alone takes, and the fields of
            ``PruneVidConfig``.

    Raises:
        TypeError, ValueError: an argument that is unknown or out of range, named; a checkpoint
            that cannot be loaded, or is of another family.
    """

    family: str  # name in FAMILIES

    def __init__(
        self,
        pretrained: str,
        device: str = "cuda",
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_frames_num: int | None = None,
        system_prompt: str | None = None,
        answer_prefix: str = "",
        **arguments: Any,
    ) -> None:
        super().__init__()
        config, rest = split_options(arguments)
        family = FAMILIES[self.family]
        taken = family.load_options + family.processor_options
        own = {name: rest.pop(name) for name in taken if name in rest}
        known = ("pretrained", "device", "dtype", "batch_size", "max_frames_num")
        require_no_more(rest, (*known, "system_prompt", "answer_prefix", *taken))
        if str(batch_size) != "1":
            raise ValueError(f"batch_size must be 1, got {batch_size}")
        if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"dtype must be 'auto' or a torch dtype's name, got {dtype!r}")
        self.accelerator = Accelerator()
        is_alone = self.accelerator.num_processes == 1
        self.video_model = load_video_model(
            pretrained,
            torch.device(device) if is_alone else self.accelerator.device,
            dtype=None if dtype == "auto" else getattr(torch, dtype),
            **own,
        )
        if self.video_model.family is not family:
            raise ValueError(
                f"{pretrained} must hold {family.title}, got {self.video_model.family.title}"
            )
        self.pruned = PrunedModel(self.video_model.model, config)
        self.max_frames_num = max_frames_num
        self.system = None if system_prompt is None else self._resolve_system_prompt(system_prompt)
        self.answer_prefix = answer_prefix

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, cut before the first of the task's ``until`` strings. Of the task's other
        generation arguments ``max_new_tokens`` (100), ``temperature``, ``top_p`` and ``num_beams``
        are heeded."""
        answers = []
        for request in tqdm(requests, disable=self.rank != 0, desc="Model Responding"):
            context, options, doc_to_visual, doc_id, task, split = request.args
            visuals = doc_to_visual(self.task_dict[task][split][doc_id])
            inputs = self._encode(task, context, visuals, self.answer_prefix)
            is_sampled = options.get("temperature", 0) > 0
            answer = self.video_model.generate(
                inputs,
                do_sample=is_sampled,
                temperature=options["temperature"] if is_sampled else None,
                top_p=options.get("top_p") if is_sampled else None,
                num_beams=options.get("num_beams", 1),
                max_new_tokens=options.get("max_new_tokens", 100),
            )
            self.pruned.count()
            until = options.get("until", [])
            answers.append(_cut(answer, [until] if isinstance(until, str) else until))
            self.cache_hook.add_partial("generate_until", (context, options), answers[-1])
        logger.info(f"prunevid: {self.pruned.totals}")
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        results = []
        for request in tqdm(requests, disable=self.rank != 0, desc="Model Responding"):
            context, target, doc_to_visual, doc_id, task, split = request.args
            document = self.task_dict[task][split][doc_id]
            visuals, answer = doc_to_visual(document), continuation_of(target, document)
            # Both are tokenized whole: an answer's first token may hold the prompt's last blank.
            prompt, whole = (self._encode(task, context, visuals, end) for end in ("", answer))
            ids = whole["input_ids"][0]
            start = _shared_length(prompt["input_ids"][0], ids)
            for name in ("input_ids", "attention_mask"):
                whole[name] = whole[name][:, :start]
            results.append(self.pruned.continuation_loss(whole, ids[start:]))
        logger.info(f"prunevid: {self.pruned.totals}")
        return results

    def clean(self) -> None:
        self.pruned.release()
        del self.video_model
        super().clean()

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise ValueError(f"{type(self).__name__} answers single questions, no rounds of them")

    def _encode(
        self, task: str, question: str, visuals: Sequence[Any], prefix: str
    ) -> dict[str, Tensor]:
        if len(visuals) != 1:
            raise ValueError(f"a prompt must have one video or image, got {len(visuals)}")
        return self.video_model.encode(
            self._frames(task, visuals[0]), question, system=self.system, answer_prefix=prefix
        )

    def _frames(self, task: str, visual: Any) -> np.ndarray:
        """[T, H, W, 3] uint8 of a video file or an image."""
        if isinstance(visual, Image.Image):
            return np.asarray(visual.convert("RGB"))[None]
        family = self.video_model.family
        count = self.max_frames_num or family.frames_of(task) or self.video_model.default_frames
        choose = partial(frame_indices, n=count, rule=family.sampling_of(task))
        return read_video(visual, indices=choose).frames


class PruneVidPllava(_VideoLlm):
    """``prunevid_pllava``. A model argument of its own: ``lora_alpha``."""

    family = "pllava"


class PruneVidStLlm(_VideoLlm):
    """``prunevid_st_llm``, QA and conversation. A model argument of its own:
    ``qformer_tokenizer``."""

    family = "st_llm"


def _shared_length(a: Tensor, b: Tensor) -> int:
    """How many entries two sequences have in common from their start on."""
    length = min(len(a), len(b))
    differs = (a[:length] != b[:length]).nonzero()
    return int(differs[0]) if len(differs) else length


def _cut(answer: str, ends: Sequence[str]) -> str:
    """The answer before the first of the texts; empty ones do not count."""
    for end in filter(None, ends):
        answer = answer.split(end)[0]
    return answer.strip()
