"""What vLLM's newer runner ("V2") keeps of a pruned model's requests: where merged tokens are.

Its own pruning asks the model for positions and, once more, for how far text after the prompt is
shifted, a number that has to be fetched from the device. Merging does not change that number: it
was counted in host memory when the request came, and stays.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.worker.gpu.mm.rope import RopeState
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.model_states.mamba_hybrid import MambaHybridModelState


class _Places:
    """A pruned model as vLLM's pruner asks it."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def recompute_mrope_positions(
        self,
        input_ids: Tensor,
        multimodal_embeddings: list[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, None]:
        features, positions = self._model.place(
            input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens
        )
        return features, positions, None


class _Positions:
    """The requests' positions, of which the pruner replaces all but the shift."""

    def __init__(self, state: RopeState) -> None:
        self._state = state
        self.read_prefill_positions = state.read_prefill_positions

    def update_prefill_positions(self, req_idx: int, positions: Tensor, delta: None) -> None:
        shift = int(self._state.prefill_delta.np[req_idx])  # in host memory
        self._state.update_prefill_positions(req_idx, positions, shift)


def keep_shifts(state: DefaultModelState) -> None:
    """Let the pruner of a state replace positions alone."""
    pruner = state.mm_pruner
    if pruner is not None:
        pruner.model, pruner.rope_state = _Places(pruner.model), _Positions(pruner.rope_state)


class PrunedModelState(DefaultModelState):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keep_shifts(self)


class PrunedHybridState(MambaHybridModelState):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keep_shifts(self)
