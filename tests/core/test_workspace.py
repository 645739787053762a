"""What the launchers allocate at real shapes, counted without allocating it.

Tensors without memory go through the launchers; the kernels themselves are left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

from prunevid_kernels.kernels import _device
from prunevid_kernels.kernels.merge import MergeParameters, merge_videos_to_budget
from prunevid_kernels.kernels.selection.token_score import score_visual_tokens

MERGE = MergeParameters(0.8, 0.25, 0.5, 7, 14)


class Allocations(TorchDispatchMode):
    """Sums the bytes of all fresh tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.total_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.empty:
            self.total_bytes += result.numel() * result.element_size()
        return result


@contextmanager
def allocations() -> Iterator[Allocations]:
    with (
        mock.patch.object(GridExecutor, "__call__", lambda *_, **__: None),
        mock.patch.object(_device, "architecture", lambda device: "sm_90"),
        Allocations() as counted,
    ):
        yield counted


def merge_workspace_bytes(frames: int, tokens: int, channels: int, budget: int) -> int:
    """All allocations of a merge in budget mode but its outputs."""
    with torch.device("meta"):
        x = torch.empty((frames, tokens, channels), dtype=torch.bfloat16)
    with allocations() as counted:
        outputs = merge_videos_to_budget(x, [frames], [budget], MERGE)
    return counted.total_bytes - sum(out.numel() * out.element_size() for out in outputs)


@pytest.mark.parametrize(
    ("frames", "tokens", "channels", "parts"),
    [
        pytest.param(32, 196, 3584, 1, id="LLaVA-OneVision"),
        pytest.param(16, 144, 4096, 2, id="PLLaVA"),
        pytest.param(512, 196, 3584, 1, id="512-frames"),
    ],
)
def test_merge_workspace_is_the_static_means_the_products_and_the_distances(
    frames: int, tokens: int, channels: int, parts: int
) -> None:
    """N rows a frame of N floats, to whole vectors of 16, once for each part of the products' and
    once more: products are not overwritten by the distances made of them, because several threads
    may read an element. The frame means. And
    the means over time, of which there can be one for two tokens: as much as 16-bit features take,
    so that a tile of products does not read each frame of its segment again. And the products of
    the frames, in parts of 256 channels."""
    rows = 4 * frames * tokens * (-(-tokens // 16) * 16)
    static_means = 4 * (frames // 2) * tokens * channels
    of_frames = 4 * frames * (channels + frames * (channels // 256))
    workspace = merge_workspace_bytes(frames, tokens, channels, frames * tokens // 3)
    assert workspace <= 1.1 * ((parts + 1) * rows + of_frames) + static_means


def test_merge_workspace_of_few_tokens_a_frame_is_the_means() -> None:
    """ST-LLM's 32 tokens a frame: N x N distances are smaller than one vector of 4,096 channels."""
    means = 4 * 16 * 4096 + 4 * 8 * 32 * 4096
    rows = 4 * 16 * 32 * 32
    workspace = merge_workspace_bytes(16, 32, 4096, 170)
    assert means <= workspace <= 1.2 * (means + 2 * rows)


def test_merge_workspace_is_linear_in_the_frames() -> None:
    short, long = (merge_workspace_bytes(t, 196, 3584, 60 * t) for t in (32, 512))
    assert long <= 18 * short


def test_scoring_memory_is_linear_in_the_keys_and_holds_no_attention_rows() -> None:
    heads, kv_heads, rows, dim = 28, 4, 40, 128

    def allocated(keys: int) -> int:
        with torch.device("meta"):
            query = torch.empty((1, heads, rows, dim), dtype=torch.bfloat16)
            key = torch.empty((1, kv_heads, keys, dim), dtype=torch.bfloat16)
        with allocations() as counted:
            score_visual_tokens(query, key, 10, keys - rows, dim**-0.5, None, None)
        return counted.total_bytes

    assert allocated(8192) <= 2.1 * allocated(4096)
    attention_rows = 4 * heads * rows * 8192
    assert allocated(8192) <= attention_rows / 100
