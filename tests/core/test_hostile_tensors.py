"""Tensors that are no plain memory, and modes of torch that change what operators do.

Kernels read addresses, so they have to notice what an operator of torch would have taken into
account: values that are negated as they are read, tangents, batches of a transform. The reference
is made of operators, so it has to notice modes that change those. Either way a result is that of
plain tensors, or there is one error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from prunevid_kernels import (
    PruneVidConfig,
    apply_layout,
    compact,
    dpc_knn,
    merge_video,
    score_visual_tokens,
    segment_frames,
    select_tokens,
)

IMPLS = pytest.mark.parametrize("impl", ["reference", "triton"])
CONFIG, BUDGET = PruneVidConfig(), PruneVidConfig(budget=12)
X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
QUERY, KEY = X[None, :, :3], X[None, :, 1:]
INDEX = torch.tensor([1, 4])
LAYOUT = merge_video(X, BUDGET).layout
SCORES = X.flatten()[:12]

CALLS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "merge": lambda x, impl: merge_video(x, CONFIG, impl=impl).tokens,
    "merge-to-a-budget": lambda x, impl: merge_video(x, BUDGET, impl=impl).tokens,
    "room-for-all": lambda x, impl: merge_video(x, PruneVidConfig(budget=1.0), impl=impl).tokens,
    "segments": lambda x, impl: segment_frames(x[:, 0].contiguous(), CONFIG, impl=impl),
    "clusters": lambda x, impl: dpc_knn(x, 3, impl=impl).density,
    "query": lambda x, impl: score_visual_tokens(x[None], KEY, slice(1, 4), impl=impl),
    "key": lambda x, impl: score_visual_tokens(QUERY, x[None], slice(1, 4), impl=impl),
    "gather": lambda x, impl: compact([X, x], INDEX, dim=1, impl=impl)[1],
    "layout": lambda x, impl: apply_layout(x, LAYOUT, impl=impl),
}
EACH = pytest.mark.parametrize("name", CALLS)


# ------------------------------------------------------------------------------------------------
# Views whose values torch computes as it reads them
# ------------------------------------------------------------------------------------------------


@pytest.mark.sample(8)
@IMPLS
@EACH
def test_negated_views(name: str, impl: str) -> None:
    view = torch._neg_view(-X)
    assert view.is_neg() and torch.equal(view, X)
    assert torch.equal(CALLS[name](view, impl), CALLS[name](X, impl))


@IMPLS
def test_conjugated_entries_and_a_negated_index(impl: str) -> None:
    values = torch.complex(X, X + 1)
    (found,) = compact([values.conj()], torch._neg_view(-INDEX), dim=1, impl=impl)
    assert torch.equal(found, values[:, INDEX].conj().resolve_conj())


@IMPLS
def test_results_are_not_written_through_such_views(impl: str) -> None:
    message = r"must hold its values, got a negated or conjugated view"
    with pytest.raises(ValueError, match=rf"^out {message}"):
        merge_video(X, BUDGET, impl=impl, out=torch._neg_view(torch.empty(12, 8)))
    out = torch.empty(4, 2, 8, dtype=torch.complex64).conj()
    with pytest.raises(ValueError, match=rf"^out\[0\] {message}"):
        compact([X.cfloat()], INDEX, dim=1, impl=impl, out=[out])


@IMPLS
def test_quantized_tensors_are_refused(impl: str) -> None:
    quantized = torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"tensors\[1\] must not be quantized, got torch.qint8"):
        compact([X, quantized], INDEX, dim=1, impl=impl)


# ------------------------------------------------------------------------------------------------
# Transforms and tangents
# ------------------------------------------------------------------------------------------------


@IMPLS
@EACH
def test_a_tangent_is_not_dropped_without_a_word(name: str, impl: str) -> None:
    with forward_ad.dual_level(), pytest.raises(ValueError, match="must be an ordinary tensor"):
        CALLS[name](forward_ad.make_dual(X, torch.ones_like(X)), impl)


@IMPLS
@EACH
def test_transforms_are_refused_by_name(name: str, impl: str) -> None:
    def of_one(x: Tensor) -> Tensor:
        if name == "gather":
            return compact([x], INDEX, dim=1, impl=impl)[0]
        return CALLS[name](x, impl)

    for transform in (torch.func.vmap, torch.func.grad):
        call = transform(lambda x: of_one(x).float().sum())
        with pytest.raises(ValueError, match="must be an ordinary tensor: torch.func's transforms"):
            call(torch.stack((X, X)) if transform is torch.func.vmap else X)


def test_a_transform_of_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="^scores must be an ordinary tensor"):
        torch.func.vmap(lambda s: select_tokens(s, LAYOUT, CONFIG))(SCORES[None])


# ------------------------------------------------------------------------------------------------
# Modes
# ------------------------------------------------------------------------------------------------


class DefaultDtype:
    """``torch.set_default_dtype`` for a while."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *error: object) -> None:
        torch.set_default_dtype(self.before)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64-by-default": lambda: DefaultDtype(torch.float64),
    "inference": torch.inference_mode,
    "another-default-device": lambda: torch.device("meta"),
}


@pytest.mark.sample(8)
@IMPLS
@EACH
def test_modes_change_no_bit(name: str, impl: str) -> None:
    plain = CALLS[name](X, impl)
    for mode, enter in MODES.items():
        with enter():
            found = CALLS[name](X, impl)
        assert found.dtype == plain.dtype and torch.equal(found, plain), mode


# ------------------------------------------------------------------------------------------------
# Results of the caller, where the call is taped or traced
# ------------------------------------------------------------------------------------------------

WRONG_OUTS = [
    pytest.param(torch.empty(3, 12, 8), id="broadcast"),
    pytest.param(torch.empty(12, 8, dtype=torch.float16), id="rounded"),
    pytest.param(torch.empty(8, 12).T, id="strided"),
    pytest.param(X.view(-1)[:96].view(12, 8), id="in-place"),
]


@IMPLS
@pytest.mark.parametrize("out", WRONG_OUTS)
def test_a_taped_call_refuses_the_outs_that_others_refuse(out: Tensor, impl: Any) -> None:
    taped = X.detach().requires_grad_()
    with pytest.raises((ValueError, TypeError), match="^out must"):
        merge_video(taped, BUDGET, impl=impl, out=out)
    with pytest.raises((ValueError, TypeError), match=r"^out\[0\] must"):
        compact([taped.view(24, 8)], torch.arange(12), dim=0, impl=impl, out=[out])
    with pytest.raises(ValueError, match="^out must have a tensor for each of 1, got 0"):
        compact([taped], INDEX, dim=1, impl=impl, out=[])


def test_scores_do_not_overwrite_the_mask() -> None:
    memory = torch.ones(24, dtype=torch.uint8)
    mask = memory[:5].view(torch.bool).view(1, 5)
    with pytest.raises(ValueError, match="^out must not share memory with key_mask"):
        score_visual_tokens(
            QUERY,
            KEY,
            slice(1, 4),
            key_mask=mask,
            out=memory[:12].view(torch.float32).view(1, 3),
        )


def test_a_compiled_call_takes_an_out_and_refuses_a_wrong_one() -> None:
    def merged(x: Tensor, query: Tensor, tokens: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        video = merge_video(x, BUDGET, out=tokens)
        (kept,) = compact([x], INDEX, dim=1, out=[torch.empty(4, 2, 8)])
        return (
            video.tokens,
            score_visual_tokens(query, x[None], slice(1, 4), out=scores),
            kept,
        )

    compiled = torch.compile(merged, fullgraph=True, backend="aot_eager")
    tokens, scores = torch.empty(12, 8), torch.empty(1, 3)
    found = compiled(X, QUERY, tokens, scores)
    expected = merged(X, QUERY, torch.empty(12, 8), torch.empty(1, 3))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert torch.equal(tokens, expected[0]) and torch.equal(scores, expected[1])
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Observed exception"):
        compiled(X, QUERY, torch.empty(3, 12, 8), scores)
