"""How ST-LLM's answers are generated and where they end, as in its published evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

# The ways that "###", which begins the next turn, comes out of the published vocabulary.
STOP_IDS = ((835,), (2277, 29937))


class StopAtNextTurn(StoppingCriteria):
    """Ends an answer where the model goes on to write the next turn.

    Args:
        stop_ids: token sequences that begin one.
    """

    def __init__(self, stop_ids: tuple[tuple[int, ...], ...] = STOP_IDS) -> None:
        self.stop_ids = stop_ids

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """[B] bool: which rows of ``input_ids`` [B, S] end with one of the sequences."""
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for stop in self.stop_ids:
            end = input_ids.new_tensor(stop)
            ended |= (input_ids[:, -len(stop) :] == end).all(dim=1)
        return ended


def generation_options(prompt_length: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The stop ids, and a repetition penalty that counts the answer only: the published evaluations
    give ``generate`` no ids of the prompt.

    Args:
        prompt_length: placeholders counted.
        options: of ``generate``, as the caller has them.
    """
    found: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([StopAtNextTurn()])}
    if "repetition_penalty" in options:
        penalty = RepetitionPenaltyLogitsProcessor(
            options["repetition_penalty"], prompt_ignore_length=prompt_length
        )
        found |= {"repetition_penalty": 1.0, "logits_processor": LogitsProcessorList([penalty])}
    return found
