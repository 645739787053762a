"""One forward call as the engine sees it: its arguments, and what is known of it on the way.

What a call needs between its entry and the decoder lives in a context variable, one for each thread
and task, never on a module.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

from .interface import PromptVisuals
from .prefill import Prefill


@dataclass(eq=False)
class Call:
    """A call with visual features on its way through the model.

    Attributes:
        engine: whose call it is.
        owner: the entry that it began at.
        prompts: what its prompts hold.
        candidates: tokens at the end that assisted decoding wants checked; not part of the prompt.
        prefill: the pruning under way, from the decoder's call on.
        is_done: the prompt has run.
        last_hidden: [B, 1, C] the prompt's last row, when it ran without its candidates.
    """

    engine: object
    owner: nn.Module
    prompts: list[PromptVisuals]
    candidates: int
    prefill: Prefill | None = None
    is_done: bool = False
    last_hidden: Tensor | None = None

    def has_started(self) -> bool:
        """Whether its decoder was reached."""
        return self.is_done or self.prefill is not None

    def close(self) -> None:
        """Unhook the decoder layers."""
        if self.prefill is not None:
            self.prefill.close()


@dataclass(eq=False)
class Announcement:
    """Videos of a prompt that will come as embeddings, for the model of ``engine``."""

    engine: object
    prompts: list[PromptVisuals]
    is_used: bool = False


current_call: ContextVar[Call | None] = ContextVar("prunevid_call", default=None)
announced: ContextVar[Announcement | None] = ContextVar("prunevid_announcement", default=None)


def discard_call() -> None:
    """End the call that is under way in this context, if there is one."""
    call = current_call.get()
    if call is not None:
        call.close()
        current_call.set(None)


def bind_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a forward call by name."""
    if not args:
        return kwargs
    bound = inspect.signature(module.forward).bind_partial(*args)
    return {**bound.arguments, **kwargs}


def tokens_of(kwargs: Mapping[str, Any]) -> Tensor:
    """The decoder's input, ids or embeddings."""
    embeds = kwargs.get("inputs_embeds")
    return kwargs["input_ids"] if embeds is None else embeds


def is_first(cache: Cache | None, length: int) -> bool:
    """Whether ``length`` tokens begin a sequence. A decoding step never waits for the device."""
    if cache is None:
        return True
    fed = cache.get_seq_length()
    if isinstance(fed, Tensor):
        return length > 1 and int(fed) == 0
    return fed == 0


def count_candidates(inputs: Mapping[str, Any]) -> int:
    """Tokens at the end of the prompt that are there to be checked: assisted decoding asks for the
    logits of each of them and of the one before."""
    logits_to_keep = inputs.get("logits_to_keep")
    return max(0, logits_to_keep - 1) if isinstance(logits_to_keep, int) else 0


def without_last(mask: Any, count: int) -> Any:
    """An attention mask for the prompt without its last ``count`` tokens."""
    if isinstance(mask, dict):
        return {name: without_last(part, count) for name, part in mask.items()}
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask[:, :-count]
    return mask[:, :, :-count]


def expand_prompts(prompts: list[PromptVisuals], batch: int) -> list[PromptVisuals]:
    """``generate`` repeats each prompt for its beams and returned sequences."""
    if not prompts or batch % len(prompts):
        raise ValueError(
            f"videos were announced for {len(prompts)} prompts, but the batch has {batch}"
        )
    return [prompt for prompt in prompts for _ in range(batch // len(prompts))]
