"""One model, and everything that is remembered between two looks at a video.

What a setting changes comes after the vision tower, so a slider must not encode the video again,
and nothing but the question changes the unpruned answer. Kept in memories of bounded size: the
frames that were read, the prompt with its pixels, the features (:func:`..adapters.share_vision`),
the unpruned answer, and whole looks, for whoever moves a slider back. All are kept by the file and
what was asked of it, never by user, so two users do not meet and none has to be forgotten.

All of the model's work is done by one thread, one look after the other: its hooks belong to one
method at a time, and features are remembered for the thread that encoded them.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from prunevid_kernels.adapters import (
    NothingKeptWarning,
    NothingPrunedWarning,
    VideoModel,
    apply_method,
    share_vision,
)
from prunevid_kernels.adapters.methods.registry import build_method, method_names
from prunevid_kernels.adapters.video.containers import check_container
from prunevid_kernels.adapters.video.probe import probe
from prunevid_kernels.adapters.video.reader import Video, path_text, require_source, video_error

from ..cost.flops.methods import sample_flops
from ..run.drawing import TILE_PX, PrunedVideo
from ..run.run import STAGE_NAMES, Counts, counts_of, pruned_video, timed_answer
from ..support.options import InputError, default_layer
from .memory import Memory
from .settings import Settings, controls_of, options_of

VIDEOS, QUESTIONS, LOOKS = 4, 64, 16  # remembered at most


@dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
        max_bytes: of an uploaded file.
        max_seconds: of a video.
        max_question: characters of a question.
    """

    max_bytes: int = 200_000_000
    max_seconds: float = 600.0
    max_question: int = 1000


@dataclass(frozen=True)
class Look:
    """A question about a video, answered unpruned and under some settings.

    Attributes:
        answer, unpruned_answer: of the model.
        counts: tokens at each step.
        drawn: what the pictures need.
        ms, unpruned_ms: to the first word of the answer, the vision tower's time as it was measured
            when it ran.
        flops_ratio: of the decoder's FLOPs unpruned, exactly counted.
        cached_ratio: entries of the caches, of those unpruned.
    """

    answer: str
    unpruned_answer: str
    counts: Counts
    drawn: PrunedVideo
    ms: float
    unpruned_ms: float
    flops_ratio: float
    cached_ratio: float


@dataclass(frozen=True)
class _Unpruned:
    answer: str
    ms: float


class Studio:
    """Answers what the page asks.

    Args:
        model: any family's.
        limits: on videos and questions.
        max_new_tokens: the answers' greatest length.
        frames: of each video; None: as many as the model was published with.
    """

    def __init__(
        self,
        model: VideoModel,
        limits: Limits | None = None,
        *,
        max_new_tokens: int = 32,
        frames: int | None = None,
    ) -> None:
        self.model = model
        self.limits = Limits() if limits is None else limits
        self.num_layers: int = model.shape.decoder.num_layers
        self._max_new_tokens, self._frames = max_new_tokens, frames
        self._videos: Memory[Video] = Memory(VIDEOS)
        self._prompts: Memory[dict[str, Tensor]] = Memory(VIDEOS)
        self._unpruned: Memory[_Unpruned] = Memory(QUESTIONS)
        self._looks: Memory[Look] = Memory(LOOKS)
        self._worker = ThreadPoolExecutor(1, "prunevid-app")
        self._undo = ExitStack()
        self._shared = share_vision(model.model, videos=VIDEOS)
        self._worker.submit(self._undo.enter_context, self._shared).result()
        self.methods, self.left_out = self._worker.submit(self._usable_methods).result()
        self._worker.submit(self._warm_up).result()

    @property
    def settings(self) -> Settings:
        """Where the controls stand at first."""
        name = "prunevid" if "prunevid" in self.methods else self.methods[0]
        return Settings(method=name, layer=default_layer(self.num_layers))

    def close(self) -> None:
        """Restore the model and end the thread."""
        self._worker.submit(self._undo.close).result()
        self._worker.shutdown()

    def look(self, path: str | Path | None, question: str, settings: Settings) -> Look:
        """Answer a question unpruned and pruned; what is known already is not computed again.

        Args:
            path: of a video file.
            question: about it.
            settings: of the pruning.

        Raises:
            InputError: no video, no question, one of them too long, settings that do not fit.
            VideoError: the video cannot be read.
            ModelError: the question cannot make a prompt.
        """
        if not path:
            raise InputError("no video: drop one in, or take the sample")
        question = question.strip()
        if not question:
            raise InputError("no question: say what to ask about the video")
        if len(question) > self.limits.max_question:
            raise InputError(
                f"the question has {len(question)} characters, this page takes up to"
                f" {self.limits.max_question}"
            )
        if settings.method not in self.methods:
            reason = self.left_out.get(settings.method, f"there are {', '.join(self.methods)}")
            raise InputError(f"no method {settings.method!r} for this model: {reason}")
        heard = controls_of(settings.method)
        defaults = replace(self.settings, method=settings.method)
        # What the method does not listen to makes no other look.
        settings = replace(defaults, **{name: getattr(settings, name) for name in heard})
        return self._worker.submit(self._look, Path(path), question, settings).result()

    # ---- on the worker's thread

    def _look(self, path: Path, question: str, settings: Settings) -> Look:
        stat = require_source(path).stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        return self._looks.get(
            (key, question, settings), lambda: self._make(path, key, question, settings)
        )

    def _make(self, path: Path, key: Hashable, question: str, settings: Settings) -> Look:
        video = self._videos.get(key, lambda: self._read(path))
        prompt = self._prompts.get((key, question), lambda: self.model.encode(video, question))
        shown, _ = self.model.shown_frames(video.frames)
        options = options_of(settings, num_layers=self.num_layers, frames=len(shown))
        try:
            method = build_method(settings.method, options)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from error
        try:
            with warnings.catch_warnings():
                # The page says so itself, in numbers.
                warnings.simplefilter("ignore", NothingPrunedWarning)
                warnings.simplefilter("ignore", NothingKeptWarning)
                unpruned = self._unpruned.get(
                    (key, question), lambda: self._answer_unpruned(prompt)
                )
                spared = self._shared.saved_s
                answer, seconds, call = timed_answer(
                    self.model, prompt, self._max_new_tokens, method
                )
        except ValueError as error:  # of a prompt or a model that this method cannot prune
            raise InputError(f"{settings.method}: {error}") from error
        assert call is not None
        flops = sample_flops(call, self.model.shape)
        return Look(
            answer=answer,
            unpruned_answer=unpruned.answer,
            counts=counts_of(call),
            drawn=_smaller(pruned_video(self.model, video, call)),
            ms=_first_word_ms(seconds, self._shared.saved_s - spared),
            unpruned_ms=unpruned.ms,
            flops_ratio=flops.ratio("exact"),
            cached_ratio=call.cached_ratio,
        )

    def _answer_unpruned(self, prompt: dict[str, Tensor]) -> _Unpruned:
        spared = self._shared.saved_s
        answer, seconds, _ = timed_answer(self.model, prompt, self._max_new_tokens, None)
        return _Unpruned(answer, _first_word_ms(seconds, self._shared.saved_s - spared))

    def _read(self, path: Path) -> Video:
        limits = self.limits
        if path.stat().st_size > limits.max_bytes:
            raise InputError(
                f"the video has {path.stat().st_size / 1e6:.0f} MB, this page takes up to"
                f" {limits.max_bytes / 1e6:.0f} MB"
            )
        try:
            found = probe(path, check_container(path))
        except OSError as error:
            raise video_error(path, f"cannot be read: {error.strerror or error}") from error
        seconds = found.total / found.fps if found.fps else 0.0
        if seconds > limits.max_seconds:
            raise InputError(
                f"the video is {seconds:.0f} seconds long, this page takes up to"
                f" {limits.max_seconds:.0f} seconds"
            )
        return self.model.read_video(path, self._frames)

    def _usable_methods(self) -> tuple[list[str], dict[str, str]]:
        """Those that the model can be pruned by, and why it cannot by the others. ``full`` is shown
        beside each of them."""
        usable, left_out = [], {}
        for name in method_names():
            settings = Settings(method=name, layer=default_layer(self.num_layers))
            options = options_of(settings, num_layers=self.num_layers, frames=1)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NothingPrunedWarning)
                    with apply_method(self.model.model, name, options):
                        pass
            except (TypeError, ValueError) as error:
                left_out[name] = str(error)
            else:
                usable.append(name)
        return [name for name in usable if name != "full"], left_out

    def _warm_up(self) -> None:
        """What the first prompt is slowed by, such as libraries that load, is nobody's time."""
        count = self.model.default_frames
        frames = np.random.default_rng(0).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        prompt = self.model.encode(frames, "What is shown?", seconds=np.arange(count) / 2)
        options = options_of(self.settings, num_layers=self.num_layers, frames=count)
        with apply_method(self.model.model, self.settings.method, options):
            self.model.generate(prompt, max_new_tokens=1)


def without_folder(message: str, path: str | Path | None) -> str:
    """An error's text without the folder in which an uploaded file lies."""
    return message.replace(path_text(Path(path)), Path(path).name) if path else message


def _first_word_ms(seconds: dict[str, float], spared: float) -> float:
    known = set(STAGE_NAMES.values())
    return 1000 * (sum(value for name, value in seconds.items() if name in known) + spared)


def _smaller(drawn: PrunedVideo) -> PrunedVideo:
    """With frames that are as large as they are drawn: looks are remembered, and each would have to
    make them smaller again."""
    height, width = drawn.frames.shape[1:3]
    size = (TILE_PX, max(1, round(height * TILE_PX / width)))
    frames = [
        np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
        for frame in drawn.frames
    ]
    return replace(drawn, frames=np.stack(frames))
