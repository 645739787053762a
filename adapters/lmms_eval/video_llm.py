"""PLLaVA and ST-LLM, pruned, as models of lmms-eval.

    lmms-eval --model prunevid_pllava --tasks mvbench \\
        --model_args pretrained=DIR,lora_alpha=14,keep_ratio=0.4

lmms-eval has neither, so frames and prompts are those of this project's processors: the task's
text is the question.
"""

from __future__ import annotations

from abc import abstractmethod
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
from transformers import StoppingCriteria

from ..families.pllava.model import Pllava
from ..families.pllava.processor import PLLAVA_FRAMES, PllavaProcessor
from ..families.st_llm.model import StLlm
from ..families.st_llm.processor import StLlmProcessor, StopAtNextTurn
from ..video.reader import read_video
from ..video.sampling import Rule, frame_indices
from .pruning import PrunedModel, continuation_of, require_no_more, split_options


class _VideoLlm(lmms):
    """A model of this project with its processor: one video or image a prompt, one prompt at a
    time.

    Args:
        pretrained: checkpoint folder.
        device: a torch device; several processes take one each.
        dtype: a torch dtype's name; "auto": as stored.
        batch_size: 1.
        max_frames_num: frames taken of a video; None: as many as the model was published with.
        system_prompt: the system message or a file with it.
        answer_prefix: how every generated answer begins, such as "Best option:(".
        arguments: what the model itself takes, and the fields of ``PruneVidConfig``.

    Raises:
        TypeError, ValueError: an argument that is unknown or out of range, named; a checkpoint
            that cannot be loaded.
    """

    frame_rule: Rule
    own_arguments: tuple[str, ...]
    ends: tuple[str, ...] = ()  # texts that are never part of an answer
    stopping_criteria: tuple[StoppingCriteria, ...] = ()

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
        own = {name: rest.pop(name) for name in self.own_arguments if name in rest}
        known = ("pretrained", "device", "dtype", "batch_size", "max_frames_num")
        require_no_more(rest, (*known, "system_prompt", "answer_prefix", *self.own_arguments))
        if str(batch_size) != "1":
            raise ValueError(f"batch_size must be 1, got {batch_size}")
        if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"dtype must be 'auto' or a torch dtype's name, got {dtype!r}")
        self.accelerator = Accelerator()
        is_alone = self.accelerator.num_processes == 1
        self.model, self.processor = self._load(
            pretrained,
            own,
            dtype=None if dtype == "auto" else getattr(torch, dtype),
            device=torch.device(device) if is_alone else self.accelerator.device,
        )
        self.pruned = PrunedModel(self.model, config)
        self.num_frames = self._default_frames() if max_frames_num is None else max_frames_num
        self.system = None if system_prompt is None else self._resolve_system_prompt(system_prompt)
        self.answer_prefix = answer_prefix

    @abstractmethod
    def _load(
        self, folder: str, own: dict[str, Any], *, dtype: torch.dtype | None, device: torch.device
    ) -> tuple[Any, Any]:
        """The model and its processor; ``own`` are the model arguments that it alone takes."""

    @abstractmethod
    def _default_frames(self) -> int:
        """Frames that the model was published with."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, cut before the first of the task's ``until`` strings. Of the task's other
        generation arguments ``max_new_tokens`` (100), ``temperature``, ``top_p`` and ``num_beams``
        are heeded."""
        answers = []
        for request in tqdm(requests, disable=self.rank != 0, desc="Model Responding"):
            context, options, doc_to_visual, doc_id, task, split = request.args
            visuals = doc_to_visual(self.task_dict[task][split][doc_id])
            inputs = self._encode(context, visuals, self.answer_prefix)
            is_sampled = options.get("temperature", 0) > 0
            output = self.pruned.generate(
                **inputs,
                do_sample=is_sampled,
                temperature=options["temperature"] if is_sampled else None,
                top_p=options.get("top_p") if is_sampled else None,
                num_beams=options.get("num_beams", 1),
                max_new_tokens=options.get("max_new_tokens", 100),
                stopping_criteria=list(self.stopping_criteria),
            )
            new_ids = output[0, inputs["input_ids"].shape[1] :]
            answer = self.processor.tokenizer.decode(new_ids, skip_special_tokens=True).strip()
            until = options.get("until", [])
            until = [until] if isinstance(until, str) else until
            answers.append(_cut(answer, (*self.ends, *until)))
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
            prompt, whole = (self._encode(context, visuals, end) for end in ("", answer))
            ids = whole["input_ids"][0]
            start = _shared_length(prompt["input_ids"][0], ids)
            for name in ("input_ids", "attention_mask"):
                whole[name] = whole[name][:, :start]
            results.append(self.pruned.continuation_loss(whole, ids[start:]))
        logger.info(f"prunevid: {self.pruned.totals}")
        return results

    def clean(self) -> None:
        self.pruned.release()
        super().clean()

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise ValueError(f"{type(self).__name__} answers single questions, no rounds of them")

    def _encode(self, question: str, visuals: Sequence[Any], prefix: str) -> dict[str, Tensor]:
        if len(visuals) != 1:
            raise ValueError(f"a prompt must have one video or image, got {len(visuals)}")
        inputs = self.processor(
            self._frames(visuals[0]), question, system=self.system, answer_prefix=prefix
        )
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _frames(self, visual: Any) -> np.ndarray:
        """[T, H, W, 3] uint8 of a video file or an image."""
        if isinstance(visual, Image.Image):
            return np.asarray(visual.convert("RGB"))[None]
        rule = partial(frame_indices, n=self.num_frames, rule=self.frame_rule)
        return read_video(visual, indices=rule).frames


class PruneVidPllava(_VideoLlm):
    """``prunevid_pllava``. A model argument of its own: ``lora_alpha``, see :class:`Pllava`."""

    frame_rule = "pllava"
    own_arguments = ("lora_alpha",)

    def _load(
        self, folder: str, own: dict[str, Any], *, dtype: torch.dtype | None, device: torch.device
    ) -> tuple[Pllava, PllavaProcessor]:
        processor = PllavaProcessor.from_pretrained(folder)
        return Pllava.from_pretrained(folder, dtype=dtype, device=device, **own), processor

    def _default_frames(self) -> int:
        return PLLAVA_FRAMES


class PruneVidStLlm(_VideoLlm):
    """``prunevid_st_llm``, QA and conversation. A model argument of its own:
    ``qformer_tokenizer``, see :class:`StLlmProcessor`."""

    frame_rule = "st_llm"
    own_arguments = ("qformer_tokenizer",)
    ends = ("###",)
    stopping_criteria = (StopAtNextTurn(),)

    def _load(
        self, folder: str, own: dict[str, Any], *, dtype: torch.dtype | None, device: torch.device
    ) -> tuple[StLlm, StLlmProcessor]:
        processor = StLlmProcessor.from_pretrained(folder, **own)
        return StLlm.from_pretrained(folder, dtype=dtype, device=device), processor

    def _default_frames(self) -> int:
        return self.processor.num_frames


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
