"""The door to pruning: a model and a method in, a handle out.

Which family a model is of, the table of families says; what a method decides and how the engine
carries it out knows no family.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from torch import nn

from prunevid_kernels import PruneVidConfig

from .engine.engine import Engine
from .engine.interface import PromptVisuals
from .engine.method import PruningMethod
from .families import adapter_of
from .methods.prunevid import PruneVid
from .methods.registry import build_method
from .methods.sharing import SharedVision


class PruneHandle:
    """A pruned model's handle; a context manager that restores the model at its end.

    Attributes:
        report: what each call did, see :class:`PruneReport`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.report = engine.report

    def remove(self) -> None:
        """Restore the model; a second call does nothing. Warns if nothing was ever pruned."""
        if self._engine.is_active():
            self._engine.remove()
            self._engine.warn_if_idle()

    def videos(self, prompts: Sequence[PromptVisuals]) -> AbstractContextManager[None]:
        """Say where the videos are in the next prompt, where its arguments do not tell: one of
        ``inputs_embeds``, or of a model that sees the frames of a video as images.

        ``with handle.videos([...]): model.generate(inputs_embeds=...)``

        Args:
            prompts: what is not text in each prompt of the batch, padding counted. ``generate`` may
                repeat prompts, for beams or several returned sequences.

        Raises:
            RuntimeError: (on leaving the block) no such prompt came.
        """
        return self._engine.announce(prompts)

    def __enter__(self) -> PruneHandle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.remove()
        else:
            self._engine.remove()


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


def share_vision(model: nn.Module, clock: Callable[[], float] = time.perf_counter) -> SharedVision:
    """Encode the same video once for several methods, or for several questions about it.

    ``with share_vision(model): ...`` and inside it any number of methods, one after the other: a
    prompt that brings the same pixels as the one before gets the features from memory. See
    :class:`.methods.sharing.SharedVision`, which also tells the seconds that were saved.

    Args:
        model: as for :func:`prune`.
        clock: gives the seconds in which that is told.

    Raises:
        ValueError: a model of an unsupported kind.
    """
    return SharedVision(model, adapter_of(model), clock)
