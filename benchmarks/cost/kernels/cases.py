"""What is measured: the shapes of the published models, and features with the structure of a video.

Latency depends on the data, because the merge's group sizes do: independent noise would make every
token dynamic, one repeated frame every token static. The generated videos have scenes with hard
cuts; a background that holds still but for faint noise; places that flicker, such as foliage; and
objects that move over both. Noise and flicker are set so that about 0.4 of the tokens are left
after the merge at the method's defaults, as published for real videos. Everything is drawn on the
device that it is used on, frame by frame, so that 512 frames need little more memory than their
features.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_kernels.adapters.families import FAMILIES, SIZES
from prunevid_kernels.adapters.families.shape import DecoderShape, Size

FRAMES = (8, 16, 32, 64, 128, 256, 512)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# Shares of the visual tokens that the decoder's layers see in the scoring and compaction cases;
# published: .36 to .48 after the merge, .15 to .19 after the selection.
MERGED_RATIO = 0.4
KEPT_RATIO = 0.16


@dataclass(frozen=True)
class CaseModel:
    """A video LLM, as far as pruning sees it.

    Attributes:
        frames: frames of a video in the published evaluation.
        tokens_per_frame: visual tokens of a frame, N.
        decoder: the text decoder; its hidden size is the features' C.
        text_before, text_after: text tokens around the video in the prompts that are timed.
        layer: the selection runs at the end of this 0-based layer.
    """

    name: str
    frames: int
    tokens_per_frame: int
    decoder: DecoderShape
    text_before: int
    text_after: int
    layer: int = 10

    @property
    def channels(self) -> int:
        return self.decoder.hidden_size

    @property
    def head_dim(self) -> int:
        return self.decoder.head_dim


def _case_model(size: Size) -> CaseModel:
    before, after = FAMILIES[size.shape.family].prompt_tokens
    return CaseModel(
        size.name,
        size.shape.frames,
        size.shape.tokens_per_frame,
        size.shape.decoder,
        before,
        after,
        size.layer,
    )


# The published sizes, by the names that every command knows.
MODELS = {name: _case_model(size) for name, size in SIZES.items()}

# For a CPU or Triton's interpreter: the same structure, small enough to be run in tests.
REDUCED = CaseModel("reduced", 6, 24, DecoderShape(64, 128, 4, 4, 2, 256), 3, 5, layer=1)


@dataclass(frozen=True)
class Case:
    """One input: a model's shape, a number of frames, a dtype name of :data:`DTYPES`."""

    model: CaseModel
    frames: int
    dtype_name: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def visual_tokens(self) -> int:
        return self.frames * self.model.tokens_per_frame

    @property
    def merged_tokens(self) -> int:
        """Visual tokens that the scoring cases assume after the merge."""
        return max(1, round(self.visual_tokens * MERGED_RATIO))

    @property
    def kept_tokens(self) -> int:
        """Visual tokens that the compaction cases keep."""
        return max(1, round(self.visual_tokens * KEPT_RATIO))

    @property
    def merged_length(self) -> int:
        """Prompt length after the merge, text included."""
        return self.model.text_before + self.merged_tokens + self.model.text_after

    @property
    def kept_length(self) -> int:
        """Prompt length after the selection, text included."""
        return self.model.text_before + self.kept_tokens + self.model.text_after

    @property
    def num_caches(self) -> int:
        """Key and value tensors of the layers 0..M."""
        return 2 * (self.model.layer + 1)

    @property
    def visual_slice(self) -> slice:
        """Where the merged visual tokens are in such a prompt."""
        return slice(self.model.text_before, self.model.text_before + self.merged_tokens)

    @property
    def name(self) -> str:
        shape = f"{self.frames}x{self.model.tokens_per_frame}x{self.model.channels}"
        return f"{self.model.name} {shape} {self.dtype_name}"

    def describe(self) -> dict[str, str | int]:
        """The case as it is written to results files."""
        return {
            "name": self.name,
            "model": self.model.name,
            "frames": self.frames,
            "tokens_per_frame": self.model.tokens_per_frame,
            "channels": self.model.channels,
            "dtype": self.dtype_name,
        }


def real_cases(
    models: tuple[str, ...], frames: tuple[int, ...] | None, dtypes: tuple[str, ...]
) -> Iterator[Case]:
    """The cases of the named models; ``frames=None``: each at its published frame count.

    Raises:
        ValueError: an unknown model or dtype, or a frame count below 1.
    """
    for kind, names, known in (("model", models, MODELS), ("dtype", dtypes, DTYPES)):
        for name in names:
            if name not in known:
                raise ValueError(f"{kind} must be one of {', '.join(known)}, got {name!r}")
    for count in frames or ():
        if count < 1:
            raise ValueError(f"frames must be at least 1, got {count}")
    for model_name in models:
        model = MODELS[model_name]
        for count in frames or (model.frames,):
            for dtype_name in dtypes:
                yield Case(model, count, dtype_name)


# ------------------------------------------------------------------------------------------------
# Videos
# ------------------------------------------------------------------------------------------------

MEAN_SCENE_FRAMES = 8
STILL_SHARE = 0.45  # of the places of a scene; the others flicker
STILL_NOISE = 0.2  # cosine between two frames about 1 / (1 + 0.04): static at tau 0.8
FLICKER_NOISE = 0.9  # about 1 / (1 + 0.81): dynamic
NUM_MATERIALS = 12
NUM_OBJECTS = 2
OBJECT_SIDE = 0.3  # of the side of the picture
MASSIVE_SHARES = (1.0, -0.7, 0.5, 0.3)  # of the largest of the massive channels


def video_features(
    frames: int,
    tokens_per_frame: int,
    channels: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    massive: float = 0.0,
) -> Tensor:
    """Visual tokens [T, N, C] of a generated video, of standard deviation about 1.

    The same arguments give the same values on the same kind of device.

    Args:
        frames, tokens_per_frame, channels: T, N and C.
        seed: of the layout of the scenes and of all values.
        massive: how large all tokens are in four of the channels, as those of trained models are;
            0: in none.
    """
    generator = torch.Generator(device).manual_seed(seed)
    layout = random.Random(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    features = torch.empty((frames, tokens_per_frame, channels), dtype=dtype, device=device)
    start = 0
    for length in scene_lengths(frames, layout):
        materials = draw(NUM_MATERIALS, channels)
        look = _mixture(tokens_per_frame, layout).to(device) @ materials
        background = 0.8 * look + 0.5 * draw(tokens_per_frame, channels) + 0.3 * draw(1, channels)
        is_still = torch.rand(tokens_per_frame, generator=generator, device=device) < STILL_SHARE
        noise = torch.where(is_still, STILL_NOISE, FLICKER_NOISE)[:, None]
        objects = draw(NUM_OBJECTS, channels)
        places = [_moving_box(length, tokens_per_frame, layout) for _ in range(NUM_OBJECTS)]
        for frame in range(length):
            picture = background + noise * draw(tokens_per_frame, channels)
            for item, place in zip(objects, places, strict=True):
                covered = place[frame].to(device)[:, None]
                surface = item + 0.4 * draw(tokens_per_frame, channels)
                picture = torch.where(covered, surface, picture)
            if massive:
                _raise_channels(picture, massive, seed)
            features[start + frame] = picture
        start += length
    return features


def _raise_channels(picture: Tensor, size: float, seed: int) -> None:
    """Put four channels of tokens [N, C] at up to ``size``; tokens differ there by 1 in 10,000."""
    chosen = random.Random(seed + 1).sample(range(picture.shape[1]), len(MASSIVE_SHARES))
    for channel, share in zip(chosen, MASSIVE_SHARES, strict=True):
        picture[:, channel] = size * share * (1 + 1e-4 * picture[:, channel])


def scene_lengths(frames: int, layout: random.Random) -> list[int]:
    """Frames of each scene: irregular, about :data:`MEAN_SCENE_FRAMES`; they sum to ``frames``."""
    lengths = []
    left = frames
    while left > 0:
        length = layout.randint(MEAN_SCENE_FRAMES // 2, 3 * MEAN_SCENE_FRAMES // 2)
        # A rest too short for a scene of its own belongs to the last one.
        lengths.append(left if left - length < MEAN_SCENE_FRAMES // 2 else length)
        left -= lengths[-1]
    return lengths


def _grid(tokens_per_frame: int) -> tuple[Tensor, Tensor]:
    """Row and column of each token on the smallest square grid that holds them, in [0, 1)."""
    side = math.isqrt(tokens_per_frame - 1) + 1
    token = torch.arange(tokens_per_frame)
    return (token // side + 0.5) / side, (token % side + 0.5) / side


def _mixture(tokens_per_frame: int, layout: random.Random) -> Tensor:
    """How much of each material [N, NUM_MATERIALS] a place shows: regions with soft borders."""
    row, column = _grid(tokens_per_frame)
    centers = torch.tensor([[layout.random(), layout.random()] for _ in range(NUM_MATERIALS)])
    square = (row[:, None] - centers[:, 0]) ** 2 + (column[:, None] - centers[:, 1]) ** 2
    return (-40.0 * square).softmax(dim=1)


def _moving_box(length: int, tokens_per_frame: int, layout: random.Random) -> Tensor:
    """The places [W, N] bool that an object covers; it moves on a straight line."""
    row, column = _grid(tokens_per_frame)
    (row0, column0), (row1, column1) = [(layout.random(), layout.random()) for _ in range(2)]
    time = torch.linspace(0.0, 1.0, length)[:, None]
    near_row = (row - (row0 + (row1 - row0) * time)).abs() < OBJECT_SIDE / 2
    near_column = (column - (column0 + (column1 - column0) * time)).abs() < OBJECT_SIDE / 2
    return near_row & near_column


# ------------------------------------------------------------------------------------------------
# Inside the decoder
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionInputs:
    """Queries [B, H, S, D] and keys [B, Hkv, S, D] of one layer, of all S tokens of a prompt."""

    query: Tensor
    key: Tensor
    visual_slice: slice

    @property
    def question_query(self) -> Tensor:
        """[B, H, Q, D] the rows after the visual tokens."""
        return self.query[:, :, self.visual_slice.stop :]


def attention_inputs(
    case: Case, *, seed: int, device: torch.device | str, batch: int = 1
) -> AttentionInputs:
    """Random projections of layer M of a merged prompt; the logits' standard deviation is 2."""
    generator = torch.Generator(device).manual_seed(seed)
    decoder, length = case.model.decoder, case.merged_length

    def draw(heads: int, scale: float) -> Tensor:
        values = torch.empty((batch, heads, length, case.model.head_dim), device=device)
        return (values.normal_(generator=generator) * scale).to(case.dtype)

    query, key = draw(decoder.num_heads, 2.0), draw(decoder.num_kv_heads, 1.0)
    return AttentionInputs(query, key, case.visual_slice)


@dataclass(frozen=True)
class CompactionInputs:
    """What the selection cuts: hidden states as [B, 1, S, C], then K and V [B, Hkv, S, D] of the
    layers 0..M; and the places to keep [K], ascending int64."""

    tensors: list[Tensor]
    index: Tensor


def compaction_inputs(
    case: Case, *, seed: int, device: torch.device | str, batch: int = 1
) -> CompactionInputs:
    """Random hidden states and caches of a merged prompt, and places to keep: all of the text,
    :data:`KEPT_RATIO` of the original visual tokens."""
    generator = torch.Generator(device).manual_seed(seed)
    model, length = case.model, case.merged_length

    def draw(heads: int, width: int) -> Tensor:
        values = torch.empty((batch, heads, length, width), dtype=case.dtype, device=device)
        return values.normal_(generator=generator)

    tensors = [draw(1, model.channels)]
    tensors += [draw(model.decoder.num_kv_heads, model.head_dim) for _ in range(case.num_caches)]

    order = torch.randperm(case.merged_tokens, generator=torch.Generator().manual_seed(seed))
    visual = order[: case.kept_tokens].sort().values + model.text_before
    index = torch.cat(
        (torch.arange(model.text_before), visual, torch.arange(case.visual_slice.stop, length))
    )
    return CompactionInputs(tensors, index.to(device))
