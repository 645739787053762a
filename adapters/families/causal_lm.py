"""Where things live in a plain text decoder with a language modelling head.

For callers that build ``inputs_embeds`` themselves, visual features in place, as video LLMs without
a transformers class of their own do. Nothing in such a call says where the videos are, so the
caller does, with :meth:`prunevid_kernels.adapters.PruneHandle.videos`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..engine.interface import ModelAdapter, PromptVisuals


class CausalLMAdapter(ModelAdapter):
    def decoder(self, model: nn.Module) -> nn.Module:
        return model.get_decoder()  # type: ignore[operator]

    def entries(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model]

    def brings_visuals(self, inputs: Mapping[str, Any]) -> bool:
        return False

    def locate(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[PromptVisuals]:
        raise AssertionError("unreachable: no call brings visuals")
