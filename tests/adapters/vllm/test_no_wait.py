"""Merging, ordering and placing never wait for the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from no_wait import pretended_device

from prunevid_kernels import apply_layout
from prunevid_kernels.adapters import vllm
from prunevid_kernels.adapters.vllm.apart import Stretch
from prunevid_kernels.adapters.vllm.merging import merge_within
from prunevid_kernels.adapters.vllm.positions import Grid, MediaRows, fill_positions

pytestmark = pytest.mark.one_version


def test_a_video_is_merged_ordered_and_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    stretch = Stretch.of_ids([11, 90, 91] * 5, 90, 91, (5, 2, 4))
    with pretended_device(monkeypatch) as device:
        features = torch.randn(5, 8, 48, device=device)
        merged = merge_within(features[..., :16], 9)
        anchors = merged.layout.merged_anchor
        planes = apply_layout(features[..., 16:], merged.layout)
        numbers = stretch.split_numbers(stretch.numbers().to(device))
        text = torch.randn(stretch.num_text, 48, device=device)
        rows = stretch.arrange(torch.cat([merged.tokens, planes], 1), anchors, text, numbers)
        one_run = MediaRows.whole(merged.tokens, Grid(5, 2, 4).positions(anchors))
        for item, width in ((rows, 48), (one_run, 16)):
            split = MediaRows.split(item.joined())
            assert split.features.shape == (len(item.index), width)
            positions = torch.zeros(3, 99, dtype=torch.int64, device=device)
            is_pad = torch.zeros(99, dtype=torch.bool, device=device)
            filled = fill_positions(positions, is_pad, 7, [split, split])
            assert filled.shape == (3, 99) and filled.device == device


@pytest.mark.parametrize(
    "look",
    [
        lambda numbers: numbers.max().item(),
        lambda numbers: int(numbers[0]),
        lambda numbers: numbers.tolist(),
        lambda numbers: numbers.cpu(),
        lambda numbers: numbers[numbers > 0],
        lambda numbers: torch.arange(9, device=numbers.device)[numbers[0]],
        lambda numbers: numbers.any() and 1,
    ],
    ids=["item", "int", "list", "copy", "mask", "scalar-index", "branch"],
)
def test_waiting_is_noticed(monkeypatch: pytest.MonkeyPatch, look: Any) -> None:
    with pretended_device(monkeypatch) as device:
        numbers = torch.zeros(3, dtype=torch.int64, device=device)
        with pytest.raises(RuntimeError, match="[Mm]eta"):
            look(numbers)


def test_vllms_check_for_waits_is_not_asked_to_look_away() -> None:
    sources = sorted(Path(vllm.__file__).parent.rglob("*.py"))
    assert len(sources) > 5
    for source in sources:
        assert "gpu_sync_allowed" not in source.read_text(), source
