"""The process that traces: a request as JSON on stdin, the launches as JSON in the last line.

What is traced are the public functions at a model's shape. Only the public doors are called, so
that a kernel that is split, joined or renamed needs no change here.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from unittest import mock

import torch

from prunevid_kernels import PruneVidConfig, compact, merge_video, score_visual_tokens
from prunevid_kernels.kernels import _device

from ..cases import DTYPES, MODELS, REDUCED, Case, video_features
from . import WORKS
from .trace import Work, keep_structure, trace

# Channels of the generated video that the group sizes come from: enough for angles between frames
# to be those of the full width, few enough to be quick. A long video has fewer, so that 512 frames
# take four times as long as 32 instead of sixteen times.
STRUCTURE_CHANNELS, LONG_VIDEO_CHANNELS = 512, 128
LONG_VIDEO = 64  # frames


def work_of(case: Case, name: str) -> Work:
    """One of :data:`WORKS` at a case's shape."""
    if name in ("merge", "merge, budget"):
        return _merge(case, has_budget=name != "merge")
    if name == "score":
        return _score(case)
    if name == "compact":
        return _compact(case)
    raise ValueError(f"work must be one of {', '.join(WORKS)}, got {name!r}")


def _merge(case: Case, *, has_budget: bool) -> Work:
    model = case.model
    config = PruneVidConfig(budget=case.merged_tokens if has_budget else None)
    most = STRUCTURE_CHANNELS if case.frames <= LONG_VIDEO else LONG_VIDEO_CHANNELS
    channels = min(model.channels, most)

    def structure() -> object:
        features = video_features(
            case.frames, model.tokens_per_frame, channels, seed=0, dtype=case.dtype
        )
        return merge_video(features, config, impl="triton")

    def counts() -> object:
        shape = (case.frames, model.tokens_per_frame, model.channels)
        return merge_video(torch.zeros(shape, dtype=case.dtype), config, impl="triton")

    return Work(structure, counts)


def _score(case: Case) -> Work:
    model = case.model
    decoder = model.decoder
    query_shape = (1, decoder.num_heads, model.text_after, model.head_dim)
    key_shape = (1, decoder.num_kv_heads, case.merged_length, model.head_dim)
    query = torch.zeros(query_shape, dtype=case.dtype)
    key = torch.zeros(key_shape, dtype=case.dtype)
    return Work(None, lambda: score_visual_tokens(query, key, case.visual_slice, impl="triton"))


def _compact(case: Case) -> Work:
    model, length = case.model, case.merged_length
    shape = (1, model.decoder.num_kv_heads, length, model.head_dim)
    tensors = [torch.zeros((1, 1, length, model.channels), dtype=case.dtype)]
    tensors += [torch.zeros(shape, dtype=case.dtype) for _ in range(case.num_caches)]
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(length, generator=generator)[: case.kept_length].sort().values
    return Work(None, lambda: compact(tensors, index, dim=2, impl="triton"), tensors=tuple(tensors))


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # zeros are divided by zeros
    assert request["dtype"] in DTYPES
    model = (MODELS | {REDUCED.name: REDUCED})[request["model"]]
    case = Case(model, request["frames"], request["dtype"])
    table = _device.config_table()
    found: dict[str, list[list[dict[str, object]]]] = {}
    for name in request["works"]:
        work = work_of(case, name)
        structure = keep_structure(work)
        found[name] = []
        for configs in request["configs"]:
            changed = {
                kernel: table[kernel] | {request["architecture"]: config}
                for kernel, config in configs.items()
            }
            with mock.patch.dict(table, changed):
                launches = trace(
                    work, structure, request["architecture"], request["sample"], request["kernels"]
                )
            found[name].append([asdict(launch) for launch in launches])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
