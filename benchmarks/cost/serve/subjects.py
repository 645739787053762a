"""The servers that are compared: which there are for a model, and the options they start with.

``unpruned`` is the model as it is, ``pruned`` the same under its PruneVid architecture, and the
others are the engine's own methods of pruning, for models that have any, told to drop what PruneVid
merges away. All run beside each other for the whole measurement, so that they can take turns; each
gets an equal part of the memory that is free at the start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import torch

from prunevid_kernels.adapters.checkpoint.files import read_json
from prunevid_kernels.adapters.vllm import ARCHITECTURES

UNPRUNED, PRUNED = "unpruned", "pruned"
ENGINE_METHODS = ("evs", "vidcom2")
# What vLLM takes if nothing is said, and what is left to the machine's other work.
ENGINE_SHARE, SPARED_SHARE = 0.92, 0.1
MEMORY_OPTIONS = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
WORKER_OPTION = "--worker-cls"
CPU_WORKER = "prunevid_kernels.adapters.vllm.cpu_worker.CPUWorker"


def architecture_of(model: Path) -> str:
    """The architecture that a checkpoint folder names.

    Raises:
        ValueError: no checkpoint, or none of a model that the plugin knows.
    """
    config = model / "config.json"
    if not config.is_file():
        raise ValueError(f"model must be a checkpoint folder with a config.json, got {model}")
    named = read_json(config).get("architectures") or ["none"]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise ValueError(f"{config}: architectures must be a list of names, got {named!r}")
    if f"PruneVid{named[0]}" not in ARCHITECTURES:
        known = ", ".join(name.removeprefix("PruneVid") for name in ARCHITECTURES)
        raise ValueError(f"model must be one of {known}, got {named[0]}")
    return named[0]


def engine_methods(architecture: str) -> tuple[str, ...]:
    """Methods of pruning that the installed vLLM has for a model of its own."""
    from vllm import ModelRegistry

    model = ModelRegistry.models[architecture].load_model_cls()
    if not getattr(model, "supports_multimodal_pruning", False):
        return ()
    has = getattr(model, "supported_video_pruning_methods", ())
    return tuple(method for method in ENGINE_METHODS if method in has)


def options_of(subject: str, architecture: str, retain: float) -> list[str]:
    """What makes a server of vLLM the subject.

    Args:
        subject: :data:`UNPRUNED`, :data:`PRUNED` or one of :data:`ENGINE_METHODS`.
        architecture: of the checkpoint.
        retain: share of the visual tokens to keep.
    """
    if subject == UNPRUNED:
        return []
    if subject == PRUNED:
        overrides = {"architectures": [f"PruneVid{architecture}"], "prunevid": {"retain": retain}}
        return ["--hf-overrides", json.dumps(overrides), "--trust-request-mm-kwargs"]
    dropped = float(1 - Decimal(str(retain)))  # in decimals: 1 - 0.2 in floats is more than 0.8
    return ["--video-pruning-rate", str(dropped), "--video-pruning-method", subject]


def device_options(given: Sequence[str], subject: str, servers: int) -> list[str]:
    """What this machine asks for beside the given options: a part of the memory that is there.

    vLLM wants 92 % of the memory to be free, whatever it needs, and does not start otherwise. On a
    CPU a worker that asks models for positions is needed wherever anything is pruned.

    Args:
        given: the user's own options, which stay as they are.
        subject: as in :func:`options_of`.
        servers: that share the memory.
    """
    names = {option.split("=")[0] for option in given}
    options = []
    if not names.intersection(MEMORY_OPTIONS):
        options += [MEMORY_OPTIONS[0], str(memory_share(*free_memory(), servers))]
    if not torch.cuda.is_available() and subject != UNPRUNED and WORKER_OPTION not in names:
        options += [WORKER_OPTION, CPU_WORKER]
    return options


def memory_share(free_bytes: int, total_bytes: int, servers: int) -> float:
    """The share of all memory that each of several servers may take, in whole percent.

    Raises:
        ValueError: less than a percent for each.
    """
    free = min(ENGINE_SHARE, free_bytes / total_bytes * (1 - SPARED_SHARE))
    percent = int(100 * free / servers)
    if percent < 1:
        raise ValueError(
            f"{servers} servers need memory, got {free_bytes} bytes free of {total_bytes}"
        )
    return percent / 100


def free_memory() -> tuple[int, int]:
    """Free and total bytes, as the engine counts them: of the GPU, or of the CPU's memory node."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info

    memory = get_memory_node_info(get_allowed_cpu_list()[0].numa_node)
    return memory.available_memory, memory.total_memory
