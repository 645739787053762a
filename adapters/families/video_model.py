"""A model with its processor: all that turns frames and a question into an answer.

Families differ in how they are loaded, which frames they take and how a prompt reads; commands need
none of that, so it ends here. Loading is strict: a file that is unsafe, a layer that the checkpoint
does not fill, a value that it does not state is an error and never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers.utils import logging

from prunevid_kernels import PruneVidConfig

from ..checkpoint.files import CheckpointError, open_checkpoint, refusing
from ..checkpoint.loading import require_device
from ..engine.engine import Engine, find_engine
from ..engine.handle import PruneHandle
from ..engine.method import PruningMethod
from ..engine.report import PruneCall
from ..methods.registry import chosen_method
from ..video.reader import Reader, Video, read_video
from ..video.sampling import Rule, frame_indices
from . import FAMILIES, Family, adapter_of, family_of
from .detect import detect_family
from .processor import FrameProcessor
from .shape import ModelShape


class ModelError(ValueError):
    """A checkpoint or a prompt that cannot be used; the message is one line."""


@dataclass(frozen=True, eq=False)
class Reply:
    """What :meth:`VideoModel.ask` gives.

    Attributes:
        answer: of the model.
        report: what pruning did to the prompt: tokens before, merged and kept, seconds of each
            stage, the layout of every token; None where nothing was to be pruned.
        frames: [T, H, W, 3] uint8, RGB: what the model was shown.
        timestamps_s: [T] float64, when each of them is shown; None without a clock.
    """

    answer: str
    report: PruneCall | None
    frames: np.ndarray = field(repr=False)
    timestamps_s: np.ndarray | None = field(repr=False)


@dataclass(frozen=True)
class VideoModel:
    """A model with its processor.

    Attributes:
        model: in eval mode, on its device.
        processor: frames and question to the model's inputs.
        name: what to call the model in print.
        default_frames: how many frames it was published with.
        is_random: True for random weights, whose answers mean nothing.
        limits: what a reader of its answers has to know; None: nothing in particular.
        selection_layer: after which a method drops tokens by default; None: the method's own.
    """

    model: Any
    processor: FrameProcessor
    name: str
    default_frames: int
    is_random: bool = False
    limits: str | None = None
    selection_layer: int | None = None
    _answering: Lock = field(init=False, repr=False, compare=False, default_factory=Lock)

    @property
    def family(self) -> Family:
        """The record of the model's family."""
        return family_of(self.model.config.model_type)

    @property
    def shape(self) -> ModelShape:
        """The model's dimensions."""
        return self.family.shape(self.model.config)

    def grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        """(rows, columns) of the visual tokens of each of these frames [T, H, W, 3]."""
        return self.processor.grid_of(frames)

    @property
    def tokens_have_places(self) -> bool:
        """Whether a token shows its part of the frame."""
        return self.processor.tokens_have_places

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def sampling(self) -> Rule:
        """The rule of :func:`..video.sampling.frame_indices` that it takes."""
        return self.family.sampling

    def read_video(
        self, source: str | Path, num_frames: int | None = None, *, reader: Reader = "auto"
    ) -> Video:
        """The frames of a video that the model was published with.

        Args:
            source: a video file or a folder of frames.
            num_frames: so many by the same rule; None: as many as the model was published with.
            reader: see :func:`..video.reader.read_video`.

        Raises:
            VideoError: it cannot be read.
            ValueError: no integer, or one below 1.
        """
        _require_count("num_frames", num_frames)
        count = self.default_frames if num_frames is None else num_frames
        if self.sampling == "linspace":  # a shorter video gives each frame once
            return read_video(source, count, reader=reader)
        choose = partial(frame_indices, n=count, rule=self.sampling)
        return read_video(source, indices=choose, reader=reader)

    def shown_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """What the model sees of frames; see :meth:`.processor.FrameProcessor.shown_frames`."""
        return self.processor.shown_frames(frames)

    def encode(
        self,
        frames: np.ndarray | Video,
        question: str,
        *,
        system: str | None = None,
        answer_prefix: str = "",
        seconds: Sequence[float] | np.ndarray | None = None,
    ) -> dict[str, Tensor]:
        """Inputs for ``model.generate``, on its device, pixels in its dtype.

        Args:
            frames: [T, H, W, 3] uint8, RGB; or what :meth:`read_video` gave, with its times.
            question: what the user asks. What is written like a special token is text.
            system: the system message; None leaves it out.
            answer_prefix: how the answer begins; the model goes on from there.
            seconds: when each frame is shown, for models that are told; None without a clock, and
                for a video that has been read, which says so itself.

        Raises:
            ModelError: a text or a prompt template that cannot make a prompt.
            TypeError: seconds beside a video that has its own.
        """
        if isinstance(frames, Video):
            if seconds is not None:
                raise TypeError("seconds are for bare frames; a video that was read has its own")
            seconds, frames = frames.timestamps_s, frames.frames
        try:
            inputs = self.processor(
                frames, question, system=system, answer_prefix=answer_prefix, seconds=seconds
            )
        except TemplateError as error:
            raise ModelError(f"{self.name}: its chat template fails: {error}") from error
        except ValueError as error:
            raise ModelError(str(error)) from error
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype if name.startswith("pixel_values") else None)
            for name, value in inputs.items()
        }

    def telling(self, encoded: dict[str, Tensor]) -> AbstractContextManager[None]:
        """Inside it, a prompt that :meth:`encode` made tells where its video is. A model that sees
        frames as images cannot tell it by itself while it is pruned; others lack nothing.

        Args:
            encoded: what the model is about to get, a batch of such prompts.
        """
        engine = find_engine(self.model)
        said = adapter_of(self.model).one_video_each(self.model, encoded)
        return nullcontext() if engine is None or said is None else engine.announce(said)

    def generate(self, encoded: dict[str, Tensor], **options: Any) -> str:
        """The answer, greedy unless ``options`` of ``generate`` say otherwise.

        Args:
            encoded: what :meth:`encode` gave.
            **options: of transformers' ``generate``.
        """
        family, prompt_length = self.family, encoded["input_ids"].shape[1]
        if family.generation is not None:
            options |= family.generation(prompt_length, options)
        with self.telling(encoded):
            output = self.model.generate(**encoded, **{"do_sample": False, **options})
        answer = self.tokenizer.decode(output[0, prompt_length:], skip_special_tokens=True)
        if family.answer_end is not None:
            answer = answer.partition(family.answer_end)[0]
        return answer.strip()

    def ask(
        self,
        video: str | Path | Video | np.ndarray,
        question: str,
        config: PruneVidConfig | None = None,
        *,
        method: str | PruningMethod | None = None,
        num_frames: int | None = None,
        seconds: Sequence[float] | np.ndarray | None = None,
        max_new_tokens: int = 64,
        **options: Any,
    ) -> Reply:
        """One question about one video: read, prune, answer, restore.

        ``model.ask("clip.mp4", "What happens?", PruneVidConfig()).answer``; without ``config`` and
        ``method`` the model answers unpruned. For several questions about a video, read it once
        with :meth:`read_video` and ask inside :func:`prunevid_kernels.adapters.share_vision`.

        Args:
            video: a video file or a folder of frames; what :meth:`read_video` gave; or frames
                [T, H, W, 3] uint8, RGB, which are shown to the model as they are.
            question: what to ask.
            config: prune with PruneVid.
            method: prune with this method: its name, with its defaults (see
                :data:`..methods.registry.METHODS`; ``"prunevid"`` goes with config), or itself.
            num_frames: of a file or folder; None: as many as the model was published with.
            seconds: of bare frames, when each is shown; None without a clock.
            max_new_tokens: the answer's greatest length.
            **options: of transformers' ``generate``; greedy unless they say otherwise.

        Returns:
            The answer, what pruning did, and the frames that the model was shown.

        Raises:
            VideoError: the video cannot be read.
            ModelError: a question that is empty or cannot make a prompt, frames that are none.
            ValueError: a model that cannot be pruned so, or is pruned already; a number below 1.
            TypeError: an argument of another type, or two that exclude each other.
        """
        chosen = chosen_method(config, method, self.selection_layer)
        for name in ("max_length", "num_return_sequences", "return_dict_in_generate"):
            if name in options:
                raise TypeError(
                    f"{name}: ask gives one answer of up to max_new_tokens; use generate()"
                )
        if isinstance(question, str) and not question.strip():
            raise ModelError("the question is empty: say what to ask about the video")
        _require_count("max_new_tokens", max_new_tokens)
        _require_count("num_frames", num_frames)
        if chosen is None:  # before a video is read; not while another thread's question is pruned
            with self._answering:
                self._require_unpruned()
        if seconds is not None and isinstance(video, str | Path):
            raise TypeError("seconds are for bare frames; a video file has its own")
        if isinstance(video, str | Path):
            video = self.read_video(video, num_frames)
        elif not isinstance(video, Video | np.ndarray):
            raise TypeError(
                "video must be a path, a video that was read, or frames [T, H, W, 3] uint8, got "
                + type(video).__name__
            )
        elif num_frames is not None:
            raise TypeError("num_frames is for a file or folder; these frames are read already")
        inputs = self.encode(video, question, seconds=seconds)
        generate = partial(self.generate, inputs, max_new_tokens=max_new_tokens, **options)
        report = None
        # One thread's question at a time: another's pruning would be in this one's answer.
        with self._answering:
            if chosen is None:
                # Others may prune the model outside of ask, at any time.
                self._require_unpruned()
                answer = generate()
                self._require_unpruned()
            else:
                with PruneHandle(Engine(self.model, adapter_of(self.model), chosen)) as handle:
                    answer = generate()
                report = handle.report.last
        if isinstance(video, Video):
            return Reply(answer, report, video.frames, video.timestamps_s)
        times = None if seconds is None else np.asarray(seconds, dtype=np.float64)
        return Reply(answer, report, video, times)

    def _require_unpruned(self) -> None:
        if find_engine(self.model) is not None:
            raise ValueError(
                "model is pruned already, by an open `with prune(...)` block or another thread, so"
                " this would be no unpruned answer; ask outside the block, or use encode() and"
                " generate() inside it"
            )


def _require_count(name: str, count: int | None) -> None:
    if count is not None and (type(count) is not int or count < 1):
        raise ValueError(f"{name} must be an integer >= 1, got {count!r}")


def silence_transformers() -> None:
    """Keep transformers' warnings and loading bars off a command's stderr."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_video_model(
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> VideoModel:
    """Load a checkpoint folder of any family; nothing is downloaded.

    Args:
        folder: the checkpoint.
        device: of the model.
        dtype: of the weights; by default as stored on an accelerator, float32 on a CPU, where half
            precision is slow.
        **options: what some families need and others do not take, such as ``lora_alpha`` (how
            strong LoRA updates are that a checkpoint holds unmerged) or ``qformer_tokenizer`` (a
            vocabulary that it does not hold). None: not given.

    Returns:
        The model with its processor.

    Raises:
        ModelError: no such folder, another kind of model, files that are unreadable, incomplete or
            unsafe, a device that is not there, an option that is missing or of another family.
        TypeError: an option that no family has.
    """
    folder = Path(folder)
    given = {name: value for name, value in options.items() if value is not None}
    _require_known(options)
    try:
        device = require_device(device)
        family = detect_family(folder)
        _require_taken(given, family, folder)
        if dtype is None and device.type == "cpu":
            dtype = torch.float32
        processor = _processor(folder, family, given)
        with refusing(folder):
            model = family.load(
                folder, dtype=dtype, device=device, **_chosen(given, family.load_options)
            )
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    return VideoModel(
        model=model,
        processor=processor,
        name=folder.resolve().name,
        default_frames=processor.num_frames,
    )


def _options_of(family: Family) -> tuple[str, ...]:
    return family.load_options + family.processor_options


def _require_known(options: dict[str, Any]) -> None:
    known = sorted({name for family in FAMILIES.values() for name in _options_of(family)})
    for name in options:
        if name not in known:
            raise TypeError(f"unknown option {name!r} of a model; known ones: {', '.join(known)}")


def _require_taken(given: dict[str, Any], family: Family, folder: Path) -> None:
    for name in given:
        if name not in _options_of(family):
            takers = [other.title for other in FAMILIES.values() if name in _options_of(other)]
            raise ModelError(
                f"{name} is for {', '.join(takers)} checkpoints, {folder} holds {family.title}"
            )


def _processor(folder: Path, family: Family, given: dict[str, Any]) -> FrameProcessor:
    """The processor; where it fails, what is missing beside it is told at once."""
    try:
        with refusing(folder):
            return family.processor(folder, **_chosen(given, family.processor_options))
    except CheckpointError as error:
        if family.needed_options is None:
            raise
        needed = family.needed_options(open_checkpoint(folder).tensors)
        absent = [name for name in needed if name not in given]
        if not absent:
            raise
        raise CheckpointError(
            f"{error}; {', '.join(absent)} is needed as well, which no file says"
        ) from error


def _chosen(given: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}
