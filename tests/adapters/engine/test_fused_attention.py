"""Every layer's attention runs in its fused kernel, whatever prunes the model: nothing asks for
probabilities, and no matrix of all of a prompt's rows against all of its entries is made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import EACH_FAMILY
from tiny_models import text_tokens
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunevid_kernels.adapters import apply_method
from prunevid_kernels.adapters.methods.attention import ROWS_PER_BLOCK
from prunevid_kernels.adapters.methods.registry import METHODS


class Watcher(TorchDispatchMode):
    """Counts runs of fused attention, and notes the largest matrix [..., rows, columns] of floats
    by its shorter side."""

    def __init__(self) -> None:
        super().__init__()
        self.fused, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.fused += "scaled_dot_product" in func.__name__
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor) and output.is_floating_point() and output.ndim > 2:
                self.largest = max(self.largest, min(output.shape[-2:]))
        return outputs


def watch(model, inputs, name: str) -> tuple[Watcher, int]:
    """A prefill, and how long its prompt is in the decoder."""
    options = {"layer": 1} if "layer" in METHODS[name].defaults else {}
    with apply_method(model, name, options) as handle, Watcher() as watcher:
        model(**inputs)
    call = handle.report.last
    return watcher, call.other_tokens[0] + call.tokens_merged


@pytest.mark.sample(2)
@EACH_FAMILY
def test_attention_is_never_a_matrix(family):
    inputs = family.question()
    # Longer than a block of rows and any width of the models: a square as large is nothing else.
    # The text goes before the video, where it asks no question: heads that share keys are scored as
    # one block of question rows.
    ids = torch.cat((torch.tensor([text_tokens(100)]), inputs["input_ids"]), dim=1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    unpruned, length = watch(family.build("eager"), inputs, "full")
    assert (unpruned.fused, unpruned.largest) == (0, length), "it would have been seen"
    unpruned, length = watch(family.build("sdpa"), inputs, "full")
    assert ROWS_PER_BLOCK < length and unpruned.largest < length
    for name in METHODS:
        if (family.name, name) == ("st_llm", "downsample"):
            continue  # its tokens are no grid
        pruned, length = watch(family.build("sdpa"), inputs, name)
        assert pruned.fused == unpruned.fused > 0, name
        assert pruned.largest < length, name
