"""One run of the vision side for several methods that get the same pixels.

Methods are compared on the same videos, and what they change comes after the vision tower, so the
tower's output is the same for all of them. Here the family's calls that turn pixels into features
remember their last arguments and what they gave: the same pixels again are answered from memory,
those of a new video are encoded and replace what was not asked for longest. What the tower's
attention shows is remembered with the features, for the methods that read it.

Times stay comparable: seconds that a prompt was spared are counted (:attr:`SharedVision.saved_s`),
as they were measured when the tower did run, so that whoever times a method adds them.

Rejected: features passed to ``generate`` (older versions of transformers take none, and each family
has another form for them); hooks on the tower (a hook cannot keep a module from running).
"""

from __future__ import annotations

import copy
import functools
import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import Token
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.engine import find_engine
from ..engine.interface import ModelAdapter, VisionAttention
from ..engine.supported import transformers_model
from .vision import Seen, VisionSource, pooled, vision_source, watch_tower


@dataclass(eq=False)
class _Run:
    """What one call of the vision side got and gave.

    Attributes:
        arguments: by name, copied, as the caller may fill the same tensors with the next video;
            and whether gradients were recorded.
        output: of the call.
        seconds: that it took.
        rows: query and key rows of the attention that methods look at, see :class:`.vision.Seen`.
        videos: leading dimension of the encoder's argument.
        tokens: what those rows show of each visual token, once somebody has asked.
        tokens_s: seconds that finding it took.
    """

    arguments: dict[str, Any]
    output: Any
    seconds: float
    rows: dict[str, Tensor]
    videos: int
    tokens: Tensor | None = None
    tokens_s: float = 0.0


class SharedVision(VisionSource):
    """A context manager inside which a model encodes the same pixels once; for inference.

    It holds for the thread that entered it, and for methods that are applied inside it. The model's
    weights must not change meanwhile, and it must not be copied.

    Args:
        model: as for :func:`prunevid_kernels.adapters.prune`.
        adapter: of its family.
        clock: gives seconds.
        videos: how many are remembered, >= 1.

    Raises:
        ValueError: ``videos`` below 1.

    Attributes:
        saved_s: seconds that were spared so far, less those that remembering took.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: ModelAdapter,
        clock: Callable[[], float] = time.perf_counter,
        videos: int = 1,
    ) -> None:
        if videos < 1:
            raise ValueError(f"videos must be an integer >= 1, got {videos}")
        self._clock, self._videos = clock, videos
        self._model = transformers_model(model)
        self._calls = adapter.vision_calls(self._model)
        self._vision: VisionAttention | None
        try:
            self._vision = adapter.vision_attention(self._model)
        except ValueError:  # which a method that needs it will say when it is applied
            self._vision = None
        self.saved_s = 0.0
        self._runs: dict[str, list[_Run]] = {}  # by call, the latest at the end
        self._last: _Run | None = None
        self._caught: tuple[dict[str, Tensor], int] = ({}, 0)
        self._depth = 0
        self._undo = ExitStack()
        self._token: Token[VisionSource | None] | None = None

    def __enter__(self) -> SharedVision:
        if self._token is not None:
            raise RuntimeError("a SharedVision can be entered once at a time")
        if find_engine(self._model) is not None:
            raise RuntimeError("model is pruned already; share its vision side before, not inside")
        with ExitStack() as undo:
            for owner, name in self._calls:
                undo.callback(delattr, owner, name)
                setattr(owner, name, self._remembering(name, getattr(owner, name)))
            if self._vision is not None and self._calls:
                watch_tower(self._vision, self, undo, self._catch)
            self._undo = undo.pop_all()
        self._token = vision_source.set(self)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._token is not None:
            vision_source.reset(self._token)
        self._token = None
        self._undo.close()
        self._runs.clear()
        self._last, self._caught = None, ({}, 0)

    def serves(self, model: nn.Module) -> bool:
        return bool(self._calls) and self._model is model

    def forget_last(self) -> None:
        self._last = None

    def last_seen(self) -> Seen | None:
        """What the tower showed of the pixels that the last prompt brought."""
        run, self._last = self._last, None
        if vision_source.get() is not self or self._vision is None or run is None or not run.rows:
            return None
        if run.tokens is None:
            begun = self._clock()
            run.tokens = pooled(self._vision, run.rows, run.videos)
            _wait(run.tokens)
            run.tokens_s = self._clock() - begun
        else:
            self.saved_s += run.tokens_s
        return Seen(self, tokens=run.tokens, num_heads=self._vision.num_heads)

    def _catch(self, seen: Seen, videos: int) -> None:
        self._caught = dict(seen.rows), videos

    def _remembering(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(call)

        @functools.wraps(call)
        def remembering(*args: Any, **kwargs: Any) -> Any:
            if vision_source.get() is not self:  # another thread
                return call(*args, **kwargs)
            begun = self._clock()
            arguments = dict(signature.bind(*args, **kwargs).arguments)
            arguments["gradients"] = torch.is_grad_enabled()
            runs = self._runs.setdefault(name, [])
            run = next((run for run in runs if _same(run.arguments, arguments)), None)
            if run is None:
                run = self._encode(arguments, lambda: call(*args, **kwargs))
            else:
                runs.remove(run)
                if not self._depth:  # of a call inside another one, the outer one counts
                    self.saved_s += run.seconds - (self._clock() - begun)
            runs.append(run)
            del runs[: -self._videos]
            self._last = run
            return copy.copy(run.output)  # the caller may set fields of it

        return remembering

    def _encode(self, arguments: dict[str, Any], call: Callable[[], Any]) -> _Run:
        if not self._depth:
            self._caught = {}, 0
        self._depth += 1
        copied = _copied(arguments)
        _wait(*arguments.values())
        begun = self._clock()
        try:
            output = call()
            _wait(*arguments.values())
        finally:
            self._depth -= 1
        rows, videos = self._caught
        return _Run(copied, output, self._clock() - begun, rows, videos)


def _wait(*values: Any) -> None:
    """Until the devices of these tensors have done what they were given, so that times are real."""
    for device in {value.device for value in values if isinstance(value, Tensor)}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _copied(value: Any) -> Any:
    """A value whose tensors are its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        is_alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        return is_alike and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
