"""Requests that a server has to survive, each with what its answer must be."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm_checkpoints import QWEN3_PLANES

from prunevid_kernels.benchmarks.embedded.sample_clip import SAMPLE_CLIP

NAN, INF = float("nan"), float("inf")
VIDEO = "data:video/mp4;base64," + base64.b64encode(SAMPLE_CLIP.read_bytes()).decode()
SHARES = (10**400, -(10**400), 0, -1, 1.5, 2, NAN, INF, "much", [], {}, True, None)
WIDTH = 128  # of the tiny decoders' features
LIMIT_S = 300.0


@dataclass(frozen=True)
class Hostile:
    """A request, and what has to come back.

    Attributes:
        name: of the case.
        status: HTTP status.
        says: must be in the answer's message.
        parts: the media of the message.
        arguments: ``mm_processor_kwargs``.
    """

    name: str
    status: int
    says: str
    parts: tuple[dict[str, Any], ...]
    arguments: dict[str, Any] = field(default_factory=dict)


def video_part(url: str = VIDEO) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def embeddings_part(tokens: Tensor, grid: Any = (4, 8, 8), **more: Tensor) -> dict[str, Any]:
    """Embeddings of a video of 4 frames of 4 x 4 tokens, unless said otherwise."""
    tensors = {"video_embeds": tokens, "video_grid_thw": torch.as_tensor(grid), **more}
    encoded = {name: _encoded(tensor) for name, tensor in tensors.items()}
    return {"type": "video_embeds", "video_embeds": encoded}


def _encoded(tensor: Tensor) -> str:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def send(url: str, parts: tuple[dict[str, Any], ...], arguments: dict[str, Any]) -> tuple[int, str]:
    """Ask a server without its client library, which refuses some of this itself. Status, and the
    answer's text or the error's message."""
    named = [{**part, "uuid": uuid.uuid4().hex} if arguments else part for part in parts]
    content = [*named, {"type": "text", "text": "what happens?"}]
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 0.0,
        "ignore_eos": True,
    }
    if arguments:
        body["mm_processor_kwargs"] = arguments
    request = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps(body).encode(),  # NaN and Infinity as they are: no JSON, but servers take it
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.status, json.load(answer)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]


def hostile_requests(family: str) -> list[Hostile]:
    """For a server of one of the tiny checkpoints."""
    common = [
        Hostile(f"share-{i}", 400, "prunevid_retain", (video_part(),), {"prunevid_retain": share})
        for i, share in enumerate(SHARES)
    ]
    common += [
        Hostile("no-video", 400, "video", (video_part("data:video/mp4;base64,AAAA"),)),
        Hostile("no-tensor", 400, "return_tensors", (video_part(),), {"return_tensors": "np"}),
    ]
    if family == "llava_onevision":
        return common + list(_frames())
    if family == "qwen2_5_vl":
        return common + list(_patches()) + list(_grids(WIDTH)) + list(_seconds())
    width = width_of(family)
    return common + list(_grids(width, are_timed=True)) + list(_timestamps(width))


def width_of(family: str) -> int:
    """Values of a video's token, planes of the tower's earlier layers included."""
    return WIDTH * (1 + QWEN3_PLANES) if family == "qwen3_vl" else WIDTH


def _frames() -> Iterator[Hostile]:
    pixels = "pixel_values_videos"
    for name, arguments in {
        "nan-pixels": {"rescale_factor": NAN},
        "infinite-pixels": {"rescale_factor": 1e38},
        "nan-mean": {"image_mean": [NAN] * 3},
        "small": {"size": {"height": 48, "width": 48}},
        "large": {"do_resize": False},
    }.items():
        yield Hostile(name, 400, pixels, (video_part(),), arguments)
    yield Hostile("embeddings", 400, "video_embeds", (_plain(torch.randn(1, 64, WIDTH)),))
    # Pixels that are numbers, and a tower that overflows: known to the worker alone.
    for name, arguments in {
        "overflow": {"rescale_factor": 1e35},
        "overflow-by-std": {"image_std": [1e-37] * 3},
    }.items():
        yield Hostile(name, 500, "", (video_part(),), arguments)


def _plain(tokens: Tensor) -> dict[str, Any]:
    return {"type": "video_embeds", "video_embeds": _encoded(tokens)}


def _patches() -> Iterator[Hostile]:
    for name, arguments, says in (
        ("patch-size", {"patch_size": 7}, "pixel_values_videos"),
        ("temporal-patch", {"temporal_patch_size": 1}, "pixel_values_videos"),
        ("merge-size", {"merge_size": 1}, "video_grid_thw"),
    ):
        yield Hostile(name, 400, says, (video_part(),), arguments)


def _grids(width: int, *, are_timed: bool = False) -> Iterator[Hostile]:
    """Embeddings; with a timestamp for each frame where a model wants them."""

    def part(values: Tensor, grid: tuple[int, ...] = (4, 8, 8)) -> tuple[dict[str, Any]]:
        frames = grid[0] if grid[0] in (1, 4097) else 4
        times = {"timestamps": torch.arange(float(frames))} if are_timed else {}
        return (embeddings_part(values, grid, **times),)

    tokens = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    for name, values in {
        "nan": tokens.where(tokens < 2, NAN),
        "infinite": tokens.where(tokens < 2, -INF),
        "few": tokens[:60],
        "many": torch.cat([tokens, tokens]),
        "wide": torch.zeros(64, width + 1),
        "three-axes": tokens[None],
        "integers": torch.ones(64, width, dtype=torch.int64),
    }.items():
        yield Hostile(f"embeddings-{name}", 400, "video_embeds", part(values))
    for name, grid in {
        "negative": (-4, 8, -8),
        "empty": (0, 8, 8),
        "odd": (4, 7, 8),
        "two-numbers": (4, 8),
    }.items():
        yield Hostile(f"grid-{name}", 400, "video_grid_thw", part(tokens, grid))
    overflow = part(tokens, (2**40, 2**20, 2**20))
    yield Hostile("grid-overflow", 400, "video_embeds", overflow)
    frames = part(torch.zeros(4097, width), (4097, 2, 2))
    yield Hostile("frames", 400, "frames", frames)
    large = part(torch.zeros(4100, width), (1, 4, 4100))
    yield Hostile("tokens-a-frame", 400, "tokens a frame", large)


def _seconds() -> Iterator[Hostile]:
    tokens = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0))
    for name, seconds in {"nan": NAN, "infinite": INF, "negative": -1.0, "long": 11000.0}.items():
        part = embeddings_part(tokens, second_per_grid_ts=torch.tensor(seconds))
        yield Hostile(f"seconds-{name}", 400, "second_per_grid_ts", (part,))
    yield _overflow(WIDTH)
    # Each would do alone; together they leave the table of positions.
    part = embeddings_part(tokens, second_per_grid_ts=torch.tensor(8000.0))
    yield Hostile("seconds-together", 400, "second_per_grid_ts", (part,) * 3)


def _overflow(width: int, **more: Tensor) -> Hostile:
    """Numbers, and no number is their sum: known to the worker alone."""
    part = embeddings_part(torch.full((64, width), 3e38), **more)
    return Hostile("embeddings-overflow", 500, "", (part,))


def _timestamps(width: int) -> Iterator[Hostile]:
    tokens = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    yield Hostile("no-timestamps", 400, "timestamps", (embeddings_part(tokens),))
    for name, seconds in {
        "few": [0.5, 1.5],
        "nan": [0.5, NAN, 2.5, 3.5],
        "infinite": [0.5, 1.5, 2.5, INF],
        "negative": [-0.5, 1.5, 2.5, 3.5],
    }.items():
        part = embeddings_part(tokens, timestamps=torch.tensor(seconds))
        yield Hostile(f"timestamps-{name}", 400, "timestamps", (part,))
    yield _overflow(width, timestamps=torch.arange(4.0))
