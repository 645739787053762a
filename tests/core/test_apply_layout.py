"""Other features averaged by a plan: against means written out in float64, and as an op."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_kernels import PruneVidConfig, TokenLayout, apply_layout, merge_video

IMPLS = pytest.mark.parametrize("impl", ["reference", "triton"])


def tokens(frames: int, width: int, channels: int, seed: int = 0) -> Tensor:
    """[T, N, C], the first half of each frame hardly changing."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn((1, width, channels), generator=generator)
    noise = torch.randn((frames, width, channels), generator=generator)
    noise[:, : width // 2] *= 0.02
    return scene + noise


def means(features: Tensor, layout: TokenLayout) -> Tensor:
    """[L, C] float64, token by token."""
    flat, targets = features.double().flatten(0, 1), layout.source_to_merged.flatten()
    return torch.stack([flat[targets == i].mean(dim=0) for i in range(layout.num_merged)])


PLANS = {
    "thresholds": (11, 20, PruneVidConfig()),
    "budget": (9, 33, PruneVidConfig(budget=0.3)),
    "below-one-a-group": (9, 5, PruneVidConfig(budget=3)),
    "one-frame": (1, 17, PruneVidConfig()),
    "one-token": (7, 1, PruneVidConfig(budget=2)),
    "nothing-merged": (4, 6, PruneVidConfig(merge=False)),
}


@IMPLS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("frames", "width", "config"), PLANS.values(), ids=PLANS)
def test_the_mean_of_each_tokens_sources(
    frames: int, width: int, config: PruneVidConfig, dtype: torch.dtype, impl: Any
) -> None:
    layout = merge_video(tokens(frames, width, 12), config).layout
    plane = tokens(frames, width, 70, seed=1).to(dtype)
    found = apply_layout(plane, layout, impl=impl)
    assert found.dtype == dtype and found.shape == (layout.num_merged, 70)
    truth = means(plane, layout)
    # A sum of at most T N float32 numbers, and one rounding to the result's dtype.
    bound = 1e-6 + torch.finfo(dtype).eps * truth.abs()
    assert ((found.double() - truth).abs() <= bound).all()


@IMPLS
@pytest.mark.parametrize(
    "config", [PruneVidConfig(), PruneVidConfig(budget=40)], ids=["thresholds", "budget"]
)
def test_the_merged_features_themselves_come_out(config: PruneVidConfig, impl: Any) -> None:
    x = tokens(8, 18, 16)
    merged = merge_video(x, config, impl=impl)
    torch.testing.assert_close(
        apply_layout(x, merged.layout, impl=impl), merged.tokens, rtol=0, atol=2e-6
    )


@IMPLS
def test_a_source_that_goes_nowhere_is_in_no_mean(impl: Any) -> None:
    layout = TokenLayout.identity(2, 3, torch.device("cpu"))
    source = torch.tensor([[-1, 0, -1], [0, 1, 0]])
    layout = replace(
        layout,
        source_to_merged=source,
        merged_anchor=torch.tensor([1, 4]),
        merged_count=torch.tensor([3, 1]),
    )
    x = tokens(2, 3, 5)
    x[0, 0] = torch.nan
    found = apply_layout(x, layout, impl=impl)
    torch.testing.assert_close(found.double(), means(x, layout), rtol=0, atol=1e-6)


@IMPLS
def test_strided_features_give_the_same(impl: Any) -> None:
    layout = merge_video(tokens(6, 15, 8), PruneVidConfig()).layout
    plane = tokens(15, 6, 9, seed=2).transpose(0, 1)
    found = apply_layout(plane, layout, impl=impl)
    assert torch.equal(found, apply_layout(plane.contiguous(), layout, impl=impl))


@IMPLS
def test_gradient_and_op(impl: Any) -> None:
    layout = merge_video(tokens(6, 15, 8), PruneVidConfig()).layout
    plane = tokens(6, 15, 4, seed=3).requires_grad_()
    weights = torch.randn((layout.num_merged, 4), generator=torch.Generator().manual_seed(4))
    (apply_layout(plane, layout, impl=impl) * weights).sum().backward()
    truth = plane.detach().clone().requires_grad_()
    (means(truth, layout) * weights).sum().backward()
    torch.testing.assert_close(plane.grad, truth.grad, rtol=1e-5, atol=1e-7)
    arguments = (plane.detach(), layout.source_to_merged, layout.merged_count, impl)
    torch.library.opcheck(torch.ops.prunevid.apply_layout, arguments)


def test_compiles_without_a_graph_break() -> None:
    def both(x: Tensor, plane: Tensor) -> Tensor:
        return apply_layout(plane, merge_video(x, PruneVidConfig(budget=30)).layout)

    arguments = tokens(8, 18, 12), tokens(8, 18, 3, seed=5)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), both(*arguments))


LAYOUT = TokenLayout.identity(2, 5, torch.device("cpu"))
WRONG = [
    pytest.param(torch.zeros(2, 4, 3), ValueError, r"2 frames of 5 tokens, got .*2, 4, 3", id="n"),
    pytest.param(torch.zeros(5, 3), ValueError, r"dimensions \[T, N, C\]", id="axes"),
    pytest.param(torch.zeros(2, 5, 0), ValueError, "empty dimension", id="empty"),
    pytest.param(torch.zeros(2, 5, 3).int(), TypeError, "float16, bfloat16 or float32", id="int"),
    pytest.param([1.0], TypeError, "must be a tensor", id="list"),
    pytest.param(torch.zeros(2, 5, 3, device="meta"), ValueError, "device of the layout", id="d"),
]


@IMPLS
@pytest.mark.parametrize(("features", "error", "message"), WRONG)
def test_wrong_arguments_are_named(
    features: Any, error: type[Exception], message: str, impl: Any
) -> None:
    with pytest.raises(error, match=message):
        apply_layout(features, LAYOUT, impl=impl)


def test_a_layout_of_another_kind_and_an_unknown_impl() -> None:
    with pytest.raises(TypeError, match="layout must be a TokenLayout, got dict"):
        apply_layout(torch.zeros(2, 5, 3), {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="impl must be"):
        apply_layout(torch.zeros(2, 5, 3), LAYOUT, impl="cuda")  # type: ignore[arg-type]
