"""The published sizes: one name and one set of numbers each, whichever command asks."""

from __future__ import annotations

import pytest
import torch

from prunevid_kernels.adapters import ModelError
from prunevid_kernels.adapters.families import FAMILIES, SIZES
from prunevid_kernels.benchmarks.cost.flops.paper import published
from prunevid_kernels.benchmarks.cost.flops.planned import TokenCounts, prompt_counts
from prunevid_kernels.benchmarks.cost.kernels.cases import MODELS
from prunevid_kernels.benchmarks.cost.latency.subjects import load_subject

pytestmark = pytest.mark.one_version


def test_every_command_has_the_same_sizes():
    names = list(SIZES)
    first = [family.sizes[0].name for family in FAMILIES.values()]
    assert list(MODELS) == names and names[: len(first)] == first
    assert len(set(names)) == sum(len(family.sizes) for family in FAMILIES.values())
    assert set(published()) < set(names)
    with pytest.raises(
        ModelError, match=f"model must be one of {', '.join(names)}, or a checkpoint"
    ):
        load_subject("st-llm", torch.device("cpu"), torch.float32, is_reduced=True)


@pytest.mark.parametrize("name", SIZES)
def test_kernels_and_flops_see_the_same_model(name):
    size, case = SIZES[name], MODELS[name]
    counts = prompt_counts("full", size.shape, TokenCounts())
    assert counts.before == case.frames * case.tokens_per_frame == size.shape.visual_tokens
    assert case.decoder == size.shape.decoder
    frames = FAMILIES[size.shape.family].num_frames
    assert case.frames in (frames, frames // 2)  # two frames may be one frame of tokens
