"""What the models of this folder have in common: their pruning options, and a pruned model that
counts.

An evaluation runs for hours and ends in one number, so nothing may go wrong in silence: what was
pruned is added up and said, and an error ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from loguru import logger
from torch import Tensor

from prunevid_kernels import PruneVidConfig

from .. import PromptVisuals, prune
from ..engine.cache import cache_of, with_cache

OPTIONS = tuple(field.name for field in fields(PruneVidConfig))


def split_options(arguments: Mapping[str, Any]) -> tuple[PruneVidConfig, dict[str, Any]]:
    """The config that the pruning options among ``--model_args`` make, and the other arguments.

    Raises:
        TypeError, ValueError: a value that the option cannot have; the message names the option.
    """
    ours = {name: value for name, value in arguments.items() if name in OPTIONS}
    rest = {name: value for name, value in arguments.items() if name not in OPTIONS}
    return PruneVidConfig(**ours), rest


def require_no_more(arguments: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """ValueError that names the first of these arguments, which no one has taken."""
    for name in arguments:
        raise ValueError(
            f"unknown model argument {name!r}; known ones: {', '.join((*known, *OPTIONS))}"
        )


def continuation_of(target: Any, document: Any) -> str:
    """The answer that a loglikelihood request asks about; lmms-eval gives it or a way to it."""
    return target if isinstance(target, str) else target(document)


class EvaluationStopped(BaseException):
    """A prompt that failed. Classes of lmms-eval take any ``Exception`` for an empty, hence wrong,
    answer; this is none."""


def or_stop(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The function's result; its errors end the evaluation.

    Raises:
        EvaluationStopped: it failed.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise EvaluationStopped(f"{type(error).__name__}: {error}") from error


@dataclass
class Totals:
    """What was pruned so far: videos, and their tokens before, after merging, after selecting."""

    videos: int = 0
    tokens_before: int = 0
    tokens_merged: int = 0
    tokens_kept: int = 0

    def __str__(self) -> str:
        if not self.videos:
            return "no prompt had a video: nothing was pruned"
        merged, kept = (n / self.tokens_before for n in (self.tokens_merged, self.tokens_kept))
        return (
            f"{self.videos} videos: {self.tokens_before} visual tokens -> {self.tokens_merged} "
            f"merged ({merged:.1%}) -> {self.tokens_kept} kept ({kept:.1%})"
        )


class PrunedModel:
    """A model that is pruned from now on, and its :attr:`totals`.

    Args:
        model: of a kind that :func:`~prunevid_kernels.adapters.prune` takes.
        config: what to do.

    Raises:
        ValueError: a model or a config that do not go together.
    """

    def __init__(self, model: Any, config: PruneVidConfig) -> None:
        self.totals = Totals()
        self._handle = prune(model, config)
        self._model, self._generate = model, model.generate

    def generate(self, **inputs: Any) -> Any:
        """The model's own ``generate``; what it prunes is added to the totals."""
        output = self._generate(**inputs)
        self.count()
        return output

    def telling(self, prompts: Sequence[PromptVisuals]) -> AbstractContextManager[None]:
        """Inside it, the next prompt's videos are where the caller says; see
        :meth:`~prunevid_kernels.adapters.PruneHandle.videos`."""
        return self._handle.videos(prompts)

    def count(self) -> None:
        """Add to the totals what was pruned since the last count."""
        report = self._handle.report
        for call in report.pruned_calls:
            self.totals.videos += len(call.videos)
            self.totals.tokens_before += call.tokens_before
            self.totals.tokens_merged += call.tokens_merged
            self.totals.tokens_kept += call.tokens_kept
        report.clear()  # it holds tensors

    def release(self) -> None:
        """Restore the model and let go of it; the totals stay."""
        self._handle.remove()
        del self._model, self._generate

    @torch.inference_mode()
    def continuation_loss(
        self, inputs: Mapping[str, Tensor], continuation: Tensor
    ) -> tuple[float, bool]:
        """How likely the model finds a given answer.

        The answer runs after the pruned prompt, as the model's own would, and is no part of the
        question that selects tokens.

        Args:
            inputs: of a forward call, one prompt.
            continuation: [K] int64, the answer's tokens.

        Returns:
            The mean cross-entropy of its tokens in nats, which is what lmms-eval calls a
            likelihood and takes the smallest of; and whether greedy decoding gives this answer.

        Raises:
            ValueError: an answer without tokens.
        """
        if len(continuation) == 0:
            raise ValueError("the continuation of a loglikelihood request must not be empty")
        targets = continuation.to(self._model.device)
        output = self._model(**inputs, use_cache=True)
        logits = output.logits[0, -1:]
        if len(targets) > 1:
            more = self._model(**with_cache({"input_ids": targets[None, :-1]}, cache_of(output)))
            logits = torch.cat((logits, more.logits[0]))
        self.count()
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        return float(loss), bool((logits.argmax(dim=-1) == targets).all())


class PrunedClass:
    """Mixed in before a class of lmms-eval that loads a model of transformers: prompts, frames and
    preprocessing stay that class's own, and its model is pruned.

    Args:
        **arguments: those of the class and the fields of ``PruneVidConfig``. Unless ``device_map``
            is given, the whole model is on ``device``, where the inputs are.

    Raises:
        TypeError, ValueError: a pruning option or a model that cannot be.
    """

    model: Any

    def __init__(self, **arguments: Any) -> None:
        config, rest = split_options(arguments)
        if PartialState().num_processes == 1:
            rest = {"device_map": rest.get("device", "cuda"), **rest}
        super().__init__(**rest)
        self.pruned = PrunedModel(self.model, config)
        # The class calls this; on the instance, so that no other model is touched.
        self.model.generate = partial(or_stop, self._generate)

    def _generate(self, **inputs: Any) -> Any:
        with self._telling(inputs):
            return self.pruned.generate(**inputs)

    def _telling(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Inside it, a call of ``generate`` tells where its videos are."""
        return nullcontext()

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Answers; then, in the log, what was pruned."""
        answers: list[Any] = super().generate_until(requests)  # type: ignore[misc]
        logger.info(f"prunevid: {self.pruned.totals}")
        return answers

    def clean(self) -> None:
        """Restore the model and let go of it."""
        del self.model.generate
        self.pruned.release()
        super().clean()  # type: ignore[misc]
