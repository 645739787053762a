"""Gradients: through the merge's means and the gather, alike in both implementations; refused by
name where something is decided."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_kernels import (
    MergedVideo,
    PruneVidConfig,
    TokenLayout,
    compact,
    dpc_knn,
    merge_video,
    merge_videos,
    score_visual_tokens,
    select_tokens,
)

IMPLS = pytest.mark.parametrize("impl", ["reference", "triton"])
CONFIGS = [
    pytest.param(PruneVidConfig(), id="threshold"),
    pytest.param(PruneVidConfig(budget=0.3), id="budget"),
    pytest.param(PruneVidConfig(budget=5), id="budget-of-few"),
    pytest.param(PruneVidConfig(budget=70), id="room-in-one-video"),
    pytest.param(PruneVidConfig(budget=1.0), id="room-for-all"),
    pytest.param(PruneVidConfig(merge=False), id="unmerged"),
]
FRAMES = [9, 1, 3]


def video(frames: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    scene = torch.randn((1, 20, 12), generator=generator)
    return (scene + 0.4 * torch.randn((frames, 20, 12), generator=generator)).to(dtype)


def mean_of_sources(x: Tensor, merged: MergedVideo) -> Tensor:
    """The merged tokens in float64, by the plan and torch's own operators."""
    targets = merged.layout.source_to_merged.flatten()
    is_kept = targets >= 0
    total = torch.zeros((len(merged.tokens), x.shape[-1]), dtype=torch.float64)
    total = total.index_add(0, targets[is_kept], x.double().flatten(0, 1)[is_kept])
    return total / torch.bincount(targets[is_kept], minlength=len(total))[:, None]


@pytest.mark.sample(5)
@IMPLS
@pytest.mark.parametrize("config", CONFIGS)
def test_each_source_gets_its_share_of_its_token_s_gradient(
    config: PruneVidConfig, impl: Any
) -> None:
    x = video(sum(FRAMES)).requires_grad_()
    merged = merge_videos(x, FRAMES, config, impl=impl)
    weights = [
        torch.randn(m.tokens.shape, generator=torch.Generator().manual_seed(1)) for m in merged
    ]
    sum((m.tokens * w).sum() for m, w in zip(merged, weights, strict=True)).backward()

    truth = x.detach().clone().requires_grad_()
    exact = [mean_of_sources(v, m) for v, m in zip(truth.split(FRAMES), merged, strict=True)]
    sum((e * w).sum() for e, w in zip(exact, weights, strict=True)).backward()
    assert x.grad is not None and truth.grad is not None
    torch.testing.assert_close(x.grad, truth.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.sample(1)
@IMPLS
def test_the_tape_changes_no_result_and_no_dtype(impl: Any) -> None:
    x = video(9, torch.bfloat16)
    for config in (PruneVidConfig(), PruneVidConfig(budget=0.3)):
        plain = merge_video(x, config, impl=impl)
        taped = merge_video(x.clone().requires_grad_(), config, impl=impl)
        assert plain.tokens.grad_fn is None and taped.tokens.grad_fn is not None
        assert torch.equal(plain.tokens, taped.tokens)
        assert torch.equal(plain.layout.source_to_merged, taped.layout.source_to_merged)
        assert not taped.layout.source_to_merged.requires_grad
        (gradient,) = torch.autograd.grad(taped.tokens.float().sum(), taped_input(taped))
        assert gradient.dtype == torch.bfloat16


def taped_input(merged: MergedVideo) -> Tensor:
    """The leaf that a merged video's tokens came from."""
    node = merged.tokens.grad_fn
    while node is not None and not hasattr(node, "variable"):
        node = node.next_functions[0][0]
    assert node is not None
    leaf: Tensor = node.variable
    return leaf


@IMPLS
def test_no_tape_under_no_grad(impl: Any) -> None:
    x = video(5).requires_grad_()
    with torch.no_grad():
        assert merge_video(x, PruneVidConfig(), impl=impl).tokens.grad_fn is None
        assert merge_video(x, PruneVidConfig(budget=9), impl=impl).tokens.grad_fn is None
        assert compact([x], torch.tensor([1]), dim=0, impl=impl)[0].grad_fn is None


@IMPLS
@pytest.mark.parametrize("per_sample", [False, True], ids=["one-index", "index-per-sample"])
def test_gather(per_sample: bool, impl: Any) -> None:
    """An entry taken twice gets both gradients, one not taken none; one tensor needs none."""
    index = torch.tensor([[1, 4, 4], [0, 2, 3]])
    index = index if per_sample else index[0]
    x, still = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 3, 5, 4)
    ours, unmoved = compact([x, still], index, dim=2, impl=impl)
    weight = torch.randn(ours.shape)
    (ours * weight).sum().backward()
    found = x.grad
    x.grad = None
    rows = [x[b][:, index[b] if per_sample else index] for b in range(2)]
    (torch.stack(rows) * weight).sum().backward()
    assert torch.equal(found, x.grad)
    assert torch.equal(unmoved, compact([still], index, dim=2, impl="reference")[0])


def test_compiled_merge_is_differentiable() -> None:
    def loss(x: Tensor) -> Tensor:
        return merge_video(x, PruneVidConfig(budget=30)).tokens.square().sum()

    x = video(9).requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(x), x)
    torch.testing.assert_close(found, expected)


Q, K = torch.randn(1, 2, 3, 8), torch.randn(1, 1, 9, 8)
LAYOUT = TokenLayout.identity(2, 5, torch.device("cpu"))


@IMPLS
@pytest.mark.parametrize(
    ("call", "named"),
    [
        pytest.param(
            lambda impl: score_visual_tokens(taped(Q), K, slice(1, 4), impl=impl),
            "score_visual_tokens has no gradient, but query requires one",
            id="query",
        ),
        pytest.param(
            lambda impl: score_visual_tokens(Q, taped(K), slice(1, 4), impl=impl),
            "score_visual_tokens has no gradient, but key requires one",
            id="key",
        ),
        pytest.param(
            lambda impl: select_tokens(taped(torch.rand(10)), LAYOUT, PruneVidConfig()),
            "select_tokens has no gradient, but scores requires one",
            id="scores",
        ),
        pytest.param(
            lambda impl: dpc_knn(taped(Q[0]), 2, impl=impl),
            "dpc_knn has no gradient, but x requires one",
            id="points",
        ),
    ],
)
def test_what_decides_refuses_gradients(call: Any, named: str, impl: Any) -> None:
    with pytest.raises(ValueError, match=named):
        call(impl)
    with torch.no_grad():
        call(impl)


def taped(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()
