"""The door to pruning: a model and a method in, a handle out.

Which family a model is of, the table of families says; what a method decides and how the engine
carries it out knows no family.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from prunevid_kernels import PruneVidConfig

from .engine.engine import Engine
from .engine.handle import PruneHandle
from .engine.method import PruningMethod
from .families import adapter_of
from .methods.prunevid import PruneVid
from .methods.registry import build_method
from .methods.sharing import SharedVision


def prune(model: nn.Module, config: PruneVidConfig | None = None) -> PruneHandle:
    """Prune the videos of every prompt that ``model`` gets, until the handle is removed.

    ``generate`` and plain forward calls are used as always. Prompts without a video pass through
    untouched; images are not pruned. The model's own attention implementation, masks and caches are
    kept. Where ``logits_to_keep`` asks for k > 1 logits, the last k - 1 tokens of a prompt count as
    a continuation that is checked, not as part of the question.

    Args:
        model: of a family of :data:`.families.FAMILIES`, as :func:`load_video_model` loads it
            (its ``model``) or as transformers does; or a ``LlamaForCausalLM`` or
            ``Qwen2ForCausalLM`` that is given ``inputs_embeds``, see :meth:`PruneHandle.videos`.
        config: what to do; default ``PruneVidConfig()``.

    Returns:
        A handle: ``with prune(model) as handle: ...``, or ``handle.remove()`` later.

    Raises:
        TypeError: ``config`` is no PruneVidConfig.
        ValueError: a model of an unsupported kind, one that is pruned already, or a config that
            does not fit it. Prompts raise ValueError where they cannot be pruned: no text after a
            video, padding on the right, ``use_cache=False``, ``labels``, chunked prefill, caches
            that are quantized, offloaded or windowed.
    """
    config = PruneVidConfig() if config is None else config
    if not isinstance(config, PruneVidConfig):
        raise TypeError(f"config must be a PruneVidConfig, got {type(config).__name__}")
    return prune_by(model, PruneVid(config))


def prune_by(model: nn.Module, method: PruningMethod) -> PruneHandle:
    """:func:`prune` with any method; what is said of models, prompts and errors there holds here.

    Raises:
        ValueError: a model that this method cannot prune.
    """
    return PruneHandle(Engine(model, adapter_of(model), method))


def apply_method(model: nn.Module, name: str, options: Mapping[str, Any]) -> PruneHandle:
    """:func:`prune` with a method of the comparison, by its name.

    Args:
        model: as for :func:`prune`.
        name: of the method, see :data:`.methods.registry.METHODS`.
        options: see the method's ``defaults``.

    Raises:
        ValueError: an unknown name or option; a model that the method cannot prune.
        TypeError: a value of a wrong type.
    """
    return prune_by(model, build_method(name, options))


def share_vision(
    model: nn.Module, clock: Callable[[], float] = time.perf_counter, *, videos: int = 1
) -> SharedVision:
    """Encode the same video once for several methods, or for several questions about it.

    ``with share_vision(model): ...`` and inside it any number of methods, one after the other: a
    prompt that brings the same pixels as one before gets the features from memory. See
    :class:`.methods.sharing.SharedVision`, which also tells the seconds that were saved.

    Args:
        model: as for :func:`prune`.
        clock: gives the seconds in which that is told.
        videos: how many are remembered; the one that was not asked about for longest goes first.

    Raises:
        ValueError: a model of an unsupported kind; ``videos`` below 1.
    """
    return SharedVision(model, adapter_of(model), clock, videos)
