"""One forward call of a pruned model: where its videos are, and what is known of it on the way.

What a call needs between its entry and the decoder lives in a context variable, one for each thread
and task, never on a module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from transformers.cache_utils import Cache

from .cache import given_cache
from .interface import ModelAdapter, PromptVisuals
from .prompt import videos_among

if TYPE_CHECKING:
    from .engine import Engine
    from .prefill import Prefill


@dataclass(eq=False)
class Call:
    """A call that brings a prompt, on its way through the model.

    Attributes:
        engine: whose call it is.
        entry: the module that it began at.
        prompts: what its prompts hold besides text.
        candidates: tokens at the end that assisted decoding wants checked; not part of the prompt.
        has_videos: whether any of its prompts has a video.
        stage: how far it has come: it is not yet in the decoder, in it, or has run through it.
        prefill: the pruning under way, from the decoder's call on.
        last_hidden: [B, 1, C] the prompt's last row, when it ran without its candidates.
    """

    engine: Engine
    entry: object
    prompts: list[PromptVisuals]
    candidates: int
    has_videos: bool
    stage: Literal["entered", "running", "done"] = "entered"
    prefill: Prefill | None = None
    last_hidden: Tensor | None = None


@dataclass(eq=False)
class Announcement:
    """Videos of a prompt that will come as embeddings, or as ids that do not tell them from images,
    for the model of ``engine``."""

    engine: object
    prompts: list[PromptVisuals]
    is_used: bool = False


current_call: ContextVar[Call | None] = ContextVar("prunevid_call", default=None)
announced: ContextVar[Announcement | None] = ContextVar("prunevid_announcement", default=None)


def read_prompts(
    adapter: ModelAdapter,
    model: nn.Module,
    inputs: Mapping[str, Any],
    announcement: Announcement | None,
) -> list[PromptVisuals] | None:
    """What is not text in the prompts of a call; None if it continues some.

    Args:
        adapter: of the model.
        model: the model, without a wrapper.
        inputs: the arguments of the call.
        announcement: the videos of a prompt that does not tell them, if the caller has.

    Raises:
        ValueError: videos that cannot be placed, whose features are missing, or of which nothing
            tells that they are videos.
    """
    if adapter.brings_visuals(inputs):
        found = adapter.locate(model, inputs)
        if adapter.tells_videos:
            return found
        # Without a cache, each step of generate brings the announced prompt once more.
        is_again = inputs.get("use_cache") is False and given_cache(inputs) is None
        if announcement is None or (announcement.is_used and not is_again):
            raise ValueError(
                f"a call of {type(model).__name__} does not tell a video from images: run it "
                "inside handle.videos([...]), with one PromptVisuals for each prompt, "
                "PromptVisuals() where there are images alone"
            )
        announcement.is_used = True
        said = _expand_prompts(announcement.prompts, len(found))
        _require_length(said, inputs["input_ids"].shape[1])
        return videos_among(found, said)
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if embeds is not None and announcement is not None and not announcement.is_used:
        announcement.is_used = True
        return _expand_prompts(announcement.prompts, embeds.shape[0])
    tokens = ids if embeds is None else embeds
    if tokens is None or not is_first(given_cache(inputs), tokens.shape[1]):
        return None
    video_id = adapter.video_token_id(model)
    if ids is not None and video_id is not None and (ids == video_id).any():
        raise ValueError(
            "the prompt has video tokens but no video features came with it; pixel values are "
            "missing, or it was cut by prefill_chunk_size, which pruning does not support"
        )
    return [PromptVisuals()] * len(tokens)


def count_candidates(inputs: Mapping[str, Any]) -> int:
    """Tokens at the end of the prompt that are there to be checked: assisted decoding asks for the
    logits of each of them and of the one before."""
    logits_to_keep = inputs.get("logits_to_keep")
    return max(0, logits_to_keep - 1) if isinstance(logits_to_keep, int) else 0


def end_call(call: Call) -> None:
    """End the call that is under way in this context, and unhook its layers."""
    current_call.set(None)
    if call.prefill is not None:
        call.prefill.hooks.close()
    call.engine.forget(call)


def bind_arguments(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call of ``forward`` by name."""
    if not args:
        return kwargs
    bound = inspect.signature(forward).bind_partial(*args)
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


def without_last(mask: Any, count: int) -> Any:
    """An attention mask for the prompt without its last ``count`` tokens."""
    if isinstance(mask, dict):
        return {name: without_last(part, count) for name, part in mask.items()}
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask[:, :-count]
    return mask[:, :, :-count]


def _require_length(prompts: list[PromptVisuals], length: int) -> None:
    """Announced videos end before their prompt does.

    Raises:
        ValueError: one does not.
    """
    stops = [video.stop for prompt in prompts for video in prompt.videos]
    if stops and max(stops) > length:
        raise ValueError(
            f"a video was announced that ends at {max(stops)}, but the call brings {length} tokens "
            "of its prompt: it is another prompt, or was cut by prefill_chunk_size, which pruning "
            "does not support"
        )


def _expand_prompts(prompts: list[PromptVisuals], batch: int) -> list[PromptVisuals]:
    """One entry for each row: ``generate`` repeats prompts for its beams and returned sequences.

    Args:
        prompts: as they were announced.
        batch: rows of the call.

    Raises:
        ValueError: ``batch`` is no multiple of the announced prompts.
    """
    if not prompts or batch % len(prompts):
        raise ValueError(
            f"videos were announced for {len(prompts)} prompts, but the batch has {batch}"
        )
    return [prompt for prompt in prompts for _ in range(batch // len(prompts))]
