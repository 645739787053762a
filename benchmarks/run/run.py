"""One video, one question: pruned and unpruned, with everything needed to look at what happened.

The pruned run and the unpruned run see the same inputs after one warm-up; the unpruned one goes
last, so that whatever still warms up works against pruning and not for it. Times are single runs,
meant to show where time goes; ``prunevid bench`` is for measuring.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from prunevid_kernels import PruneVidConfig, __version__
from prunevid_kernels.adapters import (
    PruneCall,
    PruningMethod,
    VideoModel,
    load_video_model,
    prune,
    prune_by,
)
from prunevid_kernels.adapters.families.plain_text import require_text
from prunevid_kernels.adapters.methods.prunevid import PruneVid
from prunevid_kernels.adapters.video.reader import Reader, Video, path_text, require_source

from ..cost.flops.methods import sample_flops
from ..cost.latency.stages import StageClock
from ..embedded import model as embedded_model
from ..embedded.sample_clip import SAMPLE_CLIP, SAMPLE_QUESTION
from ..support.options import InputError, no_such_layer, parse_config, resolve_device
from .drawing import PrunedVideo

STAGE_NAMES = {
    "vision": "vision tower and projector",
    "merge": "merge",
    "prefill": "prompt through the decoder",
    "scoring": "scoring",
    "gather": "gather",
    "first_token": "first word of the answer",
}

# Announces a stage of work for as long as the ``with`` block runs.
Progress = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for; None stands for the embedded default.

    Attributes:
        video: file or folder of frames.
        question: needed with a video of one's own.
        model: checkpoint folder.
        lora_alpha: for a checkpoint whose LoRA is not merged.
        frames: frames to sample.
        config: ``key=value`` pairs and paths of JSON files, later ones win.
        max_new_tokens: length of the answer.
        device: a torch device; "auto" is CUDA where there is one.
        reader: what reads video files, see :func:`..adapters.video.reader.read_video`.
    """

    video: Path | None = None
    question: str | None = None
    model: Path | None = None
    lora_alpha: float | None = None
    frames: int | None = None
    config: tuple[str, ...] = ()
    max_new_tokens: int = 16
    device: str = "auto"
    reader: Reader = "auto"


@dataclass(frozen=True)
class Inputs:
    """A request that turned out to be usable."""

    video: Video
    video_is_sample: bool
    question: str
    model: VideoModel
    config: PruneVidConfig
    max_new_tokens: int
    read_seconds: float


@dataclass(frozen=True)
class Counts:
    """Visual tokens at each step, and what shares the prompt with them."""

    frames: int
    segments: int
    visual_tokens: int
    merged_tokens: int
    kept_tokens: int
    static_share: float  # of the visual tokens
    other_tokens: int  # text, and the newline after the video
    layer: int | None  # selection at the end of this decoder layer; None: no selection
    num_layers: int


@dataclass(frozen=True)
class RunResult:
    """Both answers, what pruning did, and what it cost.

    ``seconds`` and ``unpruned_seconds`` map the stages of the two runs to seconds.
    """

    inputs: Inputs
    answer: str
    unpruned_answer: str
    counts: Counts
    pruned_video: PrunedVideo
    flops_ratio_paper: float
    flops_ratio_exact: float
    seconds: dict[str, float]
    unpruned_seconds: dict[str, float]

    @property
    def knows_the_video(self) -> bool:
        """False: the answers are guesses, by a model that was trained on other videos."""
        return self.inputs.model.limits is None or self.inputs.video_is_sample

    @property
    def times_compare(self) -> bool:
        """Whether both runs' times say something about pruning: not those of a model so small
        that its decoder costs less than merging and scoring."""
        return self.inputs.model.limits is None

    def summary(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            "prunevid_kernels": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": _device_name(self.inputs.model.model.device),
            "model": self.inputs.model.name,
            "random_weights": self.inputs.model.is_random,
            "video": path_text(self.inputs.video.source),
            "reader": self.inputs.video.reader,
            "reader_reason": self.inputs.video.reader_reason,
            "question": self.inputs.question,
            "answer": self.answer,
            "unpruned_answer": self.unpruned_answer,
            "config": asdict(self.inputs.config),
            **asdict(self.counts),
            "flops_ratio_paper": self.flops_ratio_paper,
            "flops_ratio_exact": self.flops_ratio_exact,
            "seconds": self.seconds,
            "unpruned_seconds": self.unpruned_seconds,
        }


def prepare(request: RunRequest) -> Inputs:
    """Check everything the user gave and load it, before anything is computed.

    Raises:
        InputError: no question, one that is no text, a bad number of frames or tokens, a bad config
            or device.
        VideoError: a video that cannot be read.
        ModelError: a checkpoint that cannot be loaded.
    """
    for name in ("frames", "max_new_tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            option = "--" + name.replace("_", "-")
            raise InputError(f"{option} must be an integer >= 1, got {value}")
    question = (request.question or "").strip()
    try:
        require_text("question", question)
    except ValueError as error:
        raise InputError(f"--question: {error}") from error
    if not question:
        if request.video is not None or request.question is not None:
            raise InputError("no question: say what to ask with --question TEXT")
        question = embedded_model.SAMPLE_QUESTION if request.model is None else SAMPLE_QUESTION
    values = parse_config(request.config)
    if request.model is None:
        values = {"layer": embedded_model.SELECTION_LAYER, **values}
    try:
        config = PruneVidConfig.from_mapping(values)
    except (TypeError, ValueError) as error:
        raise InputError(f"--config: {error}") from error
    device = resolve_device(request.device)

    sample = embedded_model.SAMPLE_CLIP if request.model is None else SAMPLE_CLIP
    source = require_source(request.video or sample)
    if request.model is None:
        model = embedded_model.load_embedded_model(device)
    else:
        model = load_video_model(request.model, device, lora_alpha=request.lora_alpha)
    start = time.perf_counter()
    video = model.read_video(source, request.frames, reader=request.reader)
    read_seconds = time.perf_counter() - start
    num_layers = model.model.config.text_config.num_hidden_layers
    if config.select and config.layer >= num_layers:
        raise InputError(f"--config: {no_such_layer(config.layer, num_layers)}")
    return Inputs(
        video=video,
        video_is_sample=request.video is None,
        question=question,
        model=model,
        config=config,
        max_new_tokens=request.max_new_tokens,
        read_seconds=read_seconds,
    )


def run(inputs: Inputs, progress: Progress) -> RunResult:
    """Answer the question pruned and unpruned.

    Raises:
        ModelError: the question or the chat template cannot make a prompt.
        InputError: the model cannot be pruned so.
    """
    model = inputs.model
    start = time.perf_counter()
    encoded = model.encode(inputs.video, inputs.question)
    encode_seconds = time.perf_counter() - start
    try:
        warming = prune(model.model, inputs.config)
    except ValueError as error:  # what this decoder cannot do, such as select at all
        raise InputError(f"--config: {error}") from error
    # How long a prompt is tells why an answer takes as long as it does.
    with progress(f"Warming up, {encoded['input_ids'].shape[1]:,} tokens"), warming:
        model.generate(encoded, max_new_tokens=1)
    with progress("Answering, pruned"):
        method = PruneVid(inputs.config)
        answer, seconds, call = timed_answer(model, encoded, inputs.max_new_tokens, method)
    assert call is not None
    with progress("Answering, unpruned (for comparison)"):
        unpruned_answer, unpruned_seconds, _ = timed_answer(
            model, encoded, inputs.max_new_tokens, None
        )
    shared = {"read frames": inputs.read_seconds, "resize frames": encode_seconds}

    flops = sample_flops(call, model.shape)
    return RunResult(
        inputs=inputs,
        answer=answer,
        unpruned_answer=unpruned_answer,
        counts=counts_of(call),
        pruned_video=pruned_video(model, inputs.video, call),
        flops_ratio_paper=flops.ratio("paper"),
        flops_ratio_exact=flops.ratio("exact"),
        seconds=shared | seconds,
        unpruned_seconds=shared | unpruned_seconds,
    )


def counts_of(call: PruneCall) -> Counts:
    """The numbers of a prompt with one video."""
    record = call.videos[0]
    return Counts(
        frames=record.layout.num_frames,
        segments=record.layout.num_segments,
        visual_tokens=record.tokens_before,
        merged_tokens=record.tokens_merged,
        kept_tokens=record.tokens_kept,
        static_share=float(record.layout.static_mask().float().mean()),
        other_tokens=call.other_tokens[0],
        layer=call.layer,
        num_layers=call.num_layers,
    )


def pruned_video(model: VideoModel, video: Video, call: PruneCall) -> PrunedVideo:
    """What the pictures need of a prompt with one video.

    Args:
        model: that answered.
        video: what it was shown.
        call: what pruning did.
    """
    record = call.videos[0]
    kept = np.zeros(record.tokens_merged, dtype=bool)
    kept[record.kept.cpu().numpy()] = True
    shown, chosen = model.shown_frames(video.frames)
    times_s = video.timestamps_s
    return PrunedVideo(
        frames=shown,
        indices=video.indices[chosen],
        times_s=None if times_s is None else times_s[chosen],
        grid=model.grid_of(video.frames),
        layout=record.layout,
        kept=kept,
        scores=None if record.scores is None else record.scores.float().cpu().numpy(),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


# ---- timing


def timed_answer(
    model: VideoModel,
    encoded: dict[str, Tensor],
    max_new_tokens: int,
    method: PruningMethod | None,
) -> tuple[str, dict[str, float], PruneCall | None]:
    """The answer, the seconds of its stages by their names in print, and what was pruned.

    Args:
        model: to be asked.
        encoded: the prompt.
        max_new_tokens: the answer's greatest length.
        method: prunes; None: nothing does.

    Raises:
        ValueError: a model that the method cannot prune.
    """
    clock = StageClock(model.model, model.model.device)
    with ExitStack() as stack:
        # The clock's hooks go before those of prune(), so that the decoder's time includes what
        # pruning does in its call, and the tower's does not.
        stack.enter_context(clock.hooked())
        pruned = None if method is None else stack.enter_context(prune_by(model.model, method))
        clock.start()
        answer = model.generate(encoded, max_new_tokens=max_new_tokens)
        call = pruned.report.last if pruned else None
        times = clock.stop(call)
    stages = {
        STAGE_NAMES[name]: ms / 1000
        for name, ms in times.stages.items()
        if call is not None or name not in ("merge", "scoring", "gather")
    }
    return answer, {**stages, "rest of the answer": times.decode_ms / 1000}, call
