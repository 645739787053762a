"""The vLLM plugin: PruneVid's merge, within a budget, in vLLM's video models.

vLLM finds :func:`register` through the entry point group ``vllm.general_plugins`` and then knows
more architectures, chosen with ``--hf-overrides``::

    vllm serve MODEL --hf-overrides '{"architectures":
        ["PruneVidLlavaOnevisionForConditionalGeneration"], "prunevid": {"retain": 0.2}}'

They are vLLM's own models; only what happens between the vision tower and the text decoder is
changed: a video's T * N tokens are merged into ``budget_tokens(T, N, retain)``.

The selection inside the decoder is not done here, and cannot be by a plugin. vLLM allocates the
cache for all layers and all tokens before a layer has run, with one length for all layers; chunked
prefill sends the video before the question has arrived; and a cache that depends on the question
would poison the prefix cache, which is shared by all questions about a video.
"""

from __future__ import annotations

ARCHITECTURES = {
    "PruneVidLlavaOnevisionForConditionalGeneration": "llava_onevision",
    "PruneVidQwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "PruneVidQwen3VLForConditionalGeneration": "qwen3_vl",
    "PruneVidQwen3VLMoeForConditionalGeneration": "qwen3_vl",
    "PruneVidQwen3_5ForConditionalGeneration": "qwen3_5",
    "PruneVidQwen3_5MoeForConditionalGeneration": "qwen3_5",
}


def register() -> None:
    """Tell vLLM's registry where the models are; they are imported when one is asked for.

    Called in each of vLLM's processes, possibly more than once.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from .guard.config import configured

    for architecture, module in ARCHITECTURES.items():
        ModelRegistry.register_model(architecture, f"{__name__}.{module}:{architecture}")
        # What vLLM settles before it builds a model, such as the dtype of Qwen3.5's states, it
        # looks up by the architecture's name.
        plain = MODELS_CONFIG_MAP.get(architecture.removeprefix("PruneVid"))
        MODELS_CONFIG_MAP[architecture] = configured(plain)
