"""Engines, servers' options, clips and prompts of the plugin's tests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.platforms import current_platform

RETAIN = 0.25
MAX_TOKENS = 8
ARCHITECTURES = {
    "llava_onevision": "PruneVidLlavaOnevisionForConditionalGeneration",
    "qwen2_5_vl": "PruneVidQwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "PruneVidQwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "PruneVidQwen3VLMoeForConditionalGeneration",
    "qwen3_5": "PruneVidQwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "PruneVidQwen3_5MoeForConditionalGeneration",
}
# Those that differ in more than their decoder's MLP.
FAMILIES = tuple(family for family in ARCHITECTURES if not family.endswith("_moe"))
GRIDS = tuple(family for family in ARCHITECTURES if family != "llava_onevision")
APART = tuple(family for family in GRIDS if family != "qwen2_5_vl")
PLACEHOLDERS = {
    "llava_onevision": "<video>",
    **dict.fromkeys(GRIDS, "<|vision_start|><|video_pad|><|vision_end|>"),
}
IMAGE_PLACEHOLDERS = {
    "llava_onevision": "<image>",
    **dict.fromkeys(GRIDS, "<|vision_start|><|image_pad|><|vision_end|>"),
}
# What families need on the CPU engine, see cpu_worker.py.
WORKER = dict.fromkeys(
    GRIDS if current_platform.is_cpu() else (),
    "prunevid_kernels.adapters.vllm.cpu_worker.CPUWorker",
)
# The CPU engine's kernels for gated linear attention take nothing else.
DTYPE = {"qwen3_5": "bfloat16", "qwen3_5_moe": "bfloat16"}
SERVER_OPTIONS = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "4096"),
    *("--media-io-kwargs", '{"video": {"num_frames": 8}}'),
)
START_LIMIT_S = 600.0
SIDE_PX = 112
FPS = 2.0


def overrides(family: str) -> dict[str, Any]:
    """What makes a model keep :data:`RETAIN` of its videos."""
    return {"architectures": [ARCHITECTURES[family]], "prunevid": {"retain": RETAIN}}


@dataclass(frozen=True)
class Answer:
    """What an engine said: prompt length, tokens, and how much of the prompt was cached."""

    prompt_tokens: int
    tokens: tuple[int, ...]
    cached: int


@contextmanager
def engine(checkpoint: Path, **options: Any) -> Iterator[LLM]:
    """An engine in this process, with the plugin; one at a time, because its process groups are
    the process's."""
    family = checkpoint.name
    values: dict[str, Any] = {
        "dtype": DTYPE.get(family, "float32"),
        "enforce_eager": True,
        "max_model_len": 4096,
        "max_num_seqs": 32,
        "limit_mm_per_prompt": {"video": 2, "image": 1},
        "hf_overrides": overrides(family),
        "worker_cls": WORKER.get(family, "auto"),
        **options,
    }
    llm = LLM(str(checkpoint), **values)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()


def pruned_server(family: str) -> list[str]:
    """Options of a server that keeps :data:`RETAIN`, or what a request asks for."""
    options = [*SERVER_OPTIONS, "--hf-overrides", json.dumps(overrides(family))]
    return [*options, "--trust-request-mm-kwargs", "--worker-cls", WORKER.get(family, "auto")]


def clip(frames: int, seed: int = 0) -> NDArray[np.uint8]:
    """[frames, SIDE_PX, SIDE_PX, 3]: coarse pictures that change once, a noisy lower half."""
    random = np.random.default_rng(seed)
    scenes = random.integers(0, 256, (2, 14, 14, 3)).repeat(8, axis=1).repeat(8, axis=2)
    video = scenes[(np.arange(frames) * 2) // max(frames, 2)].astype(float)
    video[:, SIDE_PX // 2 :] += random.normal(0, 60, video[:, SIDE_PX // 2 :].shape)
    return video.clip(0, 255).astype(np.uint8)


def metadata(frames: int) -> dict[str, Any]:
    """What a decoder would tell of a clip at :data:`FPS`."""
    return {
        "fps": FPS,
        "duration": frames / FPS,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "opencv",
        "do_sample_frames": False,
    }


def prompt(
    family: str,
    videos: Sequence[NDArray[np.uint8]],
    text: str = "\nwhat happens?",
    retain: object = None,
) -> dict[str, Any]:
    """All videos first, then the text."""
    needs_metadata = family in GRIDS
    items = [(video, metadata(len(video))) if needs_metadata else video for video in videos]
    request: dict[str, Any] = {
        "prompt": PLACEHOLDERS[family] * len(videos) + text,
        "multi_modal_data": {"video": items},
    }
    if retain is not None:
        request["mm_processor_kwargs"] = {"prunevid_retain": retain}
    return request


def answers(llm: LLM, prompts: Sequence[dict[str, Any]]) -> list[Answer]:
    """Greedy, exactly :data:`MAX_TOKENS` tokens each."""
    sampling = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, ignore_eos=True)
    return [
        Answer(
            len(output.prompt_token_ids),
            tuple(output.outputs[0].token_ids),
            output.num_cached_tokens,
        )
        for output in llm.generate(list(prompts), sampling, use_tqdm=False)
    ]
