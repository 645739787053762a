"""Dynamic tokens' products in parts of the channels, as wide features and few tokens have them."""

import pytest
import torch
from oracle import same_layout
from torch import Tensor

from prunevid_kernels import PruneVidConfig, merge_video
from prunevid_kernels.kernels import _device, group_gram

PART = {"BLOCK": 64, "BLOCK_C": 64, "FLOAT32_BLOCK_C": 64, "SPLIT_C": 64, "PART_C": 64}


def video(dtype: torch.dtype) -> Tensor:
    """[4, 40, 320]: a still half, and a channel in which all tokens are large."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 40, 320, generator=generator)
    x[:, :20] = x[:1, :20] + 0.01 * torch.randn(4, 20, 320, generator=generator)
    x[:, :, 130] = 25.0
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("budget", [None, 50])
def test_parts_add_up(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, budget: int | None
) -> None:
    monkeypatch.setitem(_device.config_table()["group_gram"], "interpreter", PART)
    shapes: list[torch.Size] = []
    parts = group_gram.parts

    def seen(*args: object) -> list[Tensor]:
        found = parts(*args)
        shapes.append(found[0].shape)
        return found

    monkeypatch.setattr(group_gram, "parts", seen)
    config = PruneVidConfig(segment_ratio=0.5, budget=budget)
    x = video(dtype)
    merged, expected = (merge_video(x, config, impl=i) for i in ("triton", "reference"))
    assert shapes == [torch.Size([5, 4, 40, 48])]
    assert expected.layout.static_sizes().sum() > 0
    assert expected.layout.dynamic_sizes().sum() > 0
    assert same_layout(merged.layout, expected.layout)


@pytest.mark.parametrize(
    ("tokens", "channels", "parts"), [(32, 4096, 4), (64, 3584, 4), (144, 4096, 2), (196, 3584, 1)]
)
def test_the_fewer_tiles_the_more_parts(tokens: int, channels: int, parts: int) -> None:
    """And no part is smaller than the others by more than a block of channels each."""
    default = _device.config_table()["group_gram"]["default"]
    tiles = -(-tokens // default["BLOCK"])
    found = group_gram.channels_per_dynamic_part(channels, tiles * default["PART_C"])
    assert found % 64 == 0
    assert -(-channels // found) == parts
