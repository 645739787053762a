"""LLaVA-OneVision, pruned, as a model of lmms-eval.

    lmms-eval --model prunevid_llava_onevision --tasks videomme \\
        --model_args pretrained=DIR,max_frames_num=32,keep_ratio=0.4

It is lmms-eval's own ``llava_hf`` (prompts, frames, preprocessing) around a pruned model, so a run
can be set beside that model's. Of its two interfaces this is the older one: the newer gives whole
videos to the model, and how many frames of them are looked at is what an evaluation of pruning has
to fix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lmms_eval.api.instance import Instance
from lmms_eval.models.simple.llava_hf import DEFAULT_IMAGE_TOKEN, DEFAULT_VIDEO_TOKEN, LlavaHf
from loguru import logger
from tqdm import tqdm

from .pruning import PrunedClass, continuation_of, or_stop

# Jinja in front of a chat template that wants a message in parts. llava_hf gives it as one string
# that begins with placeholders, of which such a template would render nothing, the question
# included.
_STRINGS_TO_PARTS = """
{%- set split = namespace(messages=[]) -%}
{%- for message in messages -%}
  {%- set rest = namespace(text=message.content, parts=[]) -%}
  {%- for kind in ['video', 'image'] if rest.text.startswith('<' ~ kind ~ '>\n') -%}
    {%- set rest.text = rest.text[8:] -%}
    {%- set rest.parts = [{'type': kind}] -%}
  {%- endfor -%}
  {%- set parts = rest.parts + [{'type': 'text', 'text': rest.text}] -%}
  {%- set split.messages = split.messages + [{'role': message.role, 'content': parts}] -%}
{%- endfor -%}
{%- set messages = split.messages -%}
"""


class PruneVidLlavaOnevision(PrunedClass, LlavaHf):
    """``prunevid_llava_onevision``: lmms-eval's ``llava_hf`` with a pruned model.

    Args:
        **arguments: those of ``llava_hf`` and the fields of ``PruneVidConfig``.

    Raises:
        TypeError, ValueError: a pruning option or a model that cannot be; a chat template that
            does not render what it is given.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not self._renders_strings():
            self.chat_template = _STRINGS_TO_PARTS + self.tokenizer.chat_template
            if not self._renders_strings():
                raise ValueError(
                    "chat_template: the checkpoint's template leaves out the text of a message; "
                    "give another one"
                )

    def _renders_strings(self) -> bool:
        return "probe" in self._render([{"role": "user", "content": "<video>\nprobe"}], True)

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )

    def load_video(self, video_path: Any, max_frames_num: int) -> np.ndarray:
        return or_stop(super().load_video, video_path, max_frames_num)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """As llava_hf's, which knows no videos and asks for a training loss, for videos too."""
        results = []
        for request in tqdm(requests, disable=self.rank != 0, desc="Model Responding"):
            context, target, doc_to_visual, doc_id, task, split = request.args
            document = self.task_dict[task][split][doc_id]
            visuals = doc_to_visual(document)
            is_video = bool(visuals) and isinstance(visuals[0], str)
            placeholder = DEFAULT_VIDEO_TOKEN if is_video else DEFAULT_IMAGE_TOKEN
            if visuals and placeholder not in context:
                context = " ".join([placeholder] * len(visuals)) + f"\n{context}"
            messages = [{"role": "user", "content": context}]
            prompt = self._render(messages, True)
            answer = {"role": "assistant", "content": continuation_of(target, document)}
            whole = self._render([*messages, answer], False)
            media = {"images": visuals} if visuals else {}
            if is_video:
                media = {"videos": [self.load_video(visuals, self.max_frames_num)]}
            inputs = self._image_processor(text=prompt, return_tensors="pt", **media)
            ids = self.tokenizer(whole[len(prompt) :], add_special_tokens=False).input_ids
            results.append(
                self.pruned.continuation_loss(
                    inputs.to(self._device, self.model.dtype), torch.tensor(ids)
                )
            )
        logger.info(f"prunevid: {self.pruned.totals}")
        return results
