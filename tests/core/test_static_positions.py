"""Which positions of a segment hold still, at the ends of the threshold's range."""

from __future__ import annotations

import pytest
import torch

from prunevid_kernels import PruneVidConfig, merge_video


@pytest.mark.sample(3)
@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tau_of_one_leaves_nothing_static(impl, dtype):
    """Not even where rounding puts the cosine of equal frames above 1."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        still = torch.randn(1, 4, 16, generator=generator).expand(3, 4, 16).to(dtype)
        config = PruneVidConfig(tau=1.0, segment_ratio=0.01, min_cluster_tokens=100)
        layout = merge_video(still, config, impl=impl).layout
        assert layout.group_sizes[layout.group_is_static].sum() == 0
        assert layout.num_merged == 12
