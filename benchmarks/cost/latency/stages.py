"""Where the time of one ``generate`` goes: marks on the device at the borders of the stages.

A mark is an event in the GPU's stream, or the wall clock on a CPU, set by hooks on the text decoder
and on the language modelling head. Merge, scoring and gather happen inside the decoder's call and
are measured by the method's own report, so they are taken off what the decoder took. Hooks are
there while a run is watched and gone afterwards; nothing waits for the device before the run ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from prunevid_kernels.adapters import PruneCall

STAGES = ("vision", "merge", "prefill", "scoring", "gather", "first_token")
"""Stages of the time to the first token, in the order of the data.

``vision``: vision tower and projector, with all that ``generate`` does before the decoder.
``prefill``: the decoder on the prompt, without ``merge``, ``scoring`` and ``gather``.
``first_token``: the language modelling head and the choice of a token, until the host has it.
"""

Mark = torch.cuda.Event | float


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of one ``generate``.

    Attributes:
        stages: of each of :data:`STAGES`.
        first_token_ms: from the call to the first token; the sum of ``stages``.
        decode_ms: of all later tokens; 0 where there was one.
    """

    stages: dict[str, float]
    first_token_ms: float
    decode_ms: float


@dataclass
class _Marks:
    start: Mark
    decoder: list[Mark] = field(default_factory=list)
    head: list[Mark] = field(default_factory=list)


class StageClock:
    """Times the stages of a model's ``generate``.

    Args:
        model: whose ``get_decoder()`` is called once for the prompt and once for each later token.
        device: where it runs.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._decoder = model.get_decoder()
        self._head = model.get_output_embeddings()
        self._device = device
        self._marks: _Marks | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Enter it before the method is applied: then all that the method does in the decoder's
        call comes after the first mark."""
        hooks = [
            self._decoder.register_forward_pre_hook(lambda *_: self._note("decoder")),
            self._head.register_forward_pre_hook(lambda *_: self._note("head")),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def start(self) -> None:
        """A run begins; waits for the device first, so that nothing earlier is in its time."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._marks = _Marks(self._mark())

    def stop(self, call: PruneCall | None) -> StageTimes:
        """The run is over; waits for the device.

        Args:
            call: the method's record of the prompt; None without a method.
        """
        marks, self._marks = self._marks, None
        assert marks is not None, "stop() without start()"
        end = self._mark()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        # The second call of the decoder is the first whose token is not the first.
        first_token = marks.decoder[1] if len(marks.decoder) > 1 else end
        inside = {"merge": 0.0, "scoring": 0.0, "gather": 0.0}
        if call is not None:
            inside["merge"] = 1000 * call.merge_seconds
            inside["scoring"] = 1000 * call.score_seconds
            inside["gather"] = 1000 * call.gather_seconds
        decoder_ms = _elapsed_ms(marks.decoder[0], marks.head[0])
        times = {
            "vision": _elapsed_ms(marks.start, marks.decoder[0]),
            "prefill": decoder_ms - sum(inside.values()),
            "first_token": _elapsed_ms(marks.head[0], first_token),
            **inside,
        }
        return StageTimes(
            stages={name: times[name] for name in STAGES},
            first_token_ms=_elapsed_ms(marks.start, first_token),
            decode_ms=_elapsed_ms(first_token, end),
        )

    def _note(self, kind: str) -> None:
        if self._marks is not None:
            getattr(self._marks, kind).append(self._mark())

    def _mark(self) -> Mark:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _elapsed_ms(start: Mark, stop: Mark) -> float:
    if isinstance(start, float) and isinstance(stop, float):
        return 1000 * (stop - start)
    assert isinstance(start, torch.cuda.Event) and isinstance(stop, torch.cuda.Event)
    return start.elapsed_time(stop)
