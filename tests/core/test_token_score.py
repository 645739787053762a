"""Question-to-visual scores: both implementations against a float64 softmax written out here."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from kernel_grid import (
    SCORE_HEAD_DIMS,
    SCORE_HEADS,
    SCORE_NOT_FINITE_KEYS,
    SCORE_SIZES,
    shipped_blocks,
    small_blocks,
)
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from prunevid_kernels import score_visual_tokens


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def truth(
    query: Tensor,
    key: Tensor,
    visual: slice,
    *,
    scale: float | None = None,
    causal_offset: int | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    """The definition in float64, head by head."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    group = query.shape[1] // key.shape[1]
    best = torch.zeros(query.shape[0], key.shape[2], dtype=torch.float64)
    for b in range(query.shape[0]):
        for head in range(query.shape[1]):
            logits = query[b, head].double() @ key[b, head // group].double().T * scale
            sees = torch.ones_like(logits, dtype=torch.bool)
            if causal_offset is not None:
                sees = sees.tril(diagonal=causal_offset)
            if key_mask is not None:
                sees = sees & key_mask[b]
            shifted = logits - logits.masked_fill(~sees, -1e300).amax(dim=1, keepdim=True)
            weight = torch.where(sees, shifted.exp(), 0.0)
            total = weight.sum(dim=1, keepdim=True)
            attention = torch.where(total > 0, weight / total, 0.0)
            best[b] = torch.maximum(best[b], attention.amax(dim=0))
    return best[:, visual]


def assert_scores(query: Tensor, key: Tensor, visual: slice, **options: Any) -> None:
    """The kernel's error is at most the reference's plus a few float32 steps of the logits."""
    expected = truth(query, key, visual, **options)
    eager = score_visual_tokens(query, key, visual, impl="reference", **options)
    kernel = score_visual_tokens(query, key, visual, impl="triton", **options)
    assert eager.dtype == kernel.dtype == torch.float32
    assert eager.shape == kernel.shape == expected.shape
    # An error e of a logit changes its probability by the factor 1 + e.
    scale = options.get("scale") or query.shape[-1] ** -0.5
    largest_logit = scale * float(query.float().norm(dim=-1).max() * key.float().norm(dim=-1).max())
    step = (8 + 4 * abs(largest_logit)) * 2.0**-24
    assert ((eager - expected).abs() <= step * expected + 1e-37).all()
    budget = (eager - expected).abs() + step * expected + 1e-37
    assert ((kernel - expected).abs() <= budget).all()


DTYPES = [
    pytest.param(torch.float32, id="fp32"),
    pytest.param(torch.bfloat16, id="bf16"),
    pytest.param(torch.float16, id="fp16"),
]


@pytest.mark.parametrize("causal", [False, True], ids=["all-keys", "causal"])
@pytest.mark.parametrize(("heads", "kv_heads"), SCORE_HEADS)
def test_query_heads_share_kv_heads(heads: int, kv_heads: int, causal: bool) -> None:
    query, key = noise(2, heads, 5, 64), noise(2, kv_heads, 41, 64, seed=1)
    assert_scores(query, key, slice(3, 34), causal_offset=36 if causal else None)


@pytest.mark.parametrize("head_dim", SCORE_HEAD_DIMS)
def test_head_dims_of_any_size(head_dim: int) -> None:
    query, key = noise(1, 2, 3, head_dim), noise(1, 1, 29, head_dim, seed=1)
    assert_scores(query, key, slice(0, 29))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True], ids=["all-keys", "causal"])
def test_each_dtype_is_within_the_error_budget(dtype: torch.dtype, causal: bool) -> None:
    query, key = noise(1, 4, 6, 32, dtype=dtype), noise(1, 2, 50, 32, seed=1, dtype=dtype)
    assert_scores(query, key, slice(7, 44), causal_offset=44 if causal else None)


@pytest.mark.parametrize(("rows", "keys", "visual"), SCORE_SIZES)
def test_sizes_at_the_borders_of_blocks(rows: int, keys: int, visual: slice) -> None:
    assert_scores(noise(1, 2, rows, 20), noise(1, 1, keys, 20, seed=1), visual)


@pytest.mark.parametrize("causal", [False, True], ids=["all-keys", "causal"])
def test_several_blocks_of_rows_and_keys_and_two_splits(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    """39 rows in blocks of 16, 45 keys in splits of 32 and blocks of 16; the same bits again."""
    small_blocks(monkeypatch)
    query, key = noise(2, 6, 13, 24), noise(2, 2, 45, 24, seed=1)
    options: dict[str, Any] = {
        "causal_offset": 32 if causal else None,
        "key_mask": torch.rand(2, 45, generator=torch.Generator().manual_seed(4)) < 0.9,
    }
    assert_scores(query, key, slice(9, 40), **options)
    once, again = (
        score_visual_tokens(query, key, slice(9, 40), impl="triton", **options) for _ in range(2)
    )
    assert torch.equal(once, again)


@pytest.mark.full
@pytest.mark.parametrize("causal", [False, True], ids=["all-keys", "causal"])
def test_blocks_that_ship_for_gpus(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    """Several rounds of rows and keys, two splits."""
    shipped_blocks(monkeypatch)
    mask = torch.rand(2, 530, generator=torch.Generator().manual_seed(4)) < 0.9
    assert_scores(
        noise(2, 6, 13, 24),
        noise(2, 2, 530, 24, seed=1),
        slice(9, 515),
        causal_offset=517 if causal else None,
        key_mask=mask,
    )


@pytest.mark.parametrize("causal", [False, True], ids=["all-keys", "causal"])
def test_masked_keys_count_nothing(causal: bool) -> None:
    """Left padding of different length, and a hole."""
    mask = torch.arange(70)[None, :] >= torch.tensor([0, 9, 69])[:, None]
    mask[0, 30] = False
    assert_scores(
        noise(3, 4, 4, 24),
        noise(3, 2, 70, 24, seed=1),
        slice(5, 66),
        causal_offset=66 if causal else None,
        key_mask=mask,
    )


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("causal", [False, True], ids=["all-keys", "causal"])
def test_rows_that_see_nothing_pay_nothing(impl: str, causal: bool) -> None:
    mask = torch.tensor([[False] * 300, [False] * 299 + [True], [True] + [False] * 299])
    scores = score_visual_tokens(
        noise(3, 4, 2, 16),
        noise(3, 2, 300, 16, seed=1),
        slice(0, 300),
        causal_offset=298 if causal else None,
        key_mask=mask,
        impl=impl,
    )
    assert (scores[0] == 0).all()
    for batch, key in ((1, 299), (2, 0)):
        assert scores[batch, key] == 1
        assert scores[batch].count_nonzero() == 1


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_causal_rows_see_no_later_key(impl: str) -> None:
    query, key = noise(1, 2, 3, 16), noise(1, 2, 20, 16, seed=1)
    scores = score_visual_tokens(query, key, slice(0, 20), causal_offset=4, impl=impl)[0]
    assert (scores[:7] > 0).all()  # the last of the three rows stands at key 6
    assert (scores[7:] == 0).all()
    first = score_visual_tokens(query, key, slice(0, 20), causal_offset=0, impl=impl)[0]
    assert first[0] == 1


@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0, -0.2], ids=str)
def test_a_scale_of_any_size_and_sign(scale: float) -> None:
    assert_scores(noise(1, 2, 3, 16), noise(1, 2, 31, 16, seed=1), slice(2, 30), scale=scale)


def test_large_logits_do_not_overflow() -> None:
    query, key = 40 * noise(1, 2, 3, 16), 40 * noise(1, 2, 300, 16, seed=1)
    assert_scores(query, key, slice(0, 300))


def test_strides_change_no_bit() -> None:
    """Queries and keys as projections leave them: heads and positions transposed, channels cut."""
    plain_query, plain_key = noise(2, 2, 4, 20), noise(2, 2, 30, 20, seed=1)
    expected = score_visual_tokens(plain_query, plain_key, slice(2, 28), impl="triton")
    for name, view in {
        "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "channels first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        "cut": lambda x: torch.cat([x, x], dim=-1)[..., :20],
    }.items():
        scores = score_visual_tokens(
            view(plain_query), view(plain_key), slice(2, 28), impl="triton"
        )
        assert torch.equal(scores, expected), name
    shared = noise(1, 1, 30, 20, seed=1).expand(2, 2, 30, 20)
    assert_scores(plain_query, shared, slice(2, 28))


def test_batch_entries_do_not_meet() -> None:
    query, key = noise(2, 4, 5, 16), noise(2, 2, 60, 16, seed=1)
    together = score_visual_tokens(query, key, slice(4, 50), impl="triton")
    for b in range(2):
        alone = score_visual_tokens(query[b : b + 1], key[b : b + 1], slice(4, 50), impl="triton")
        assert torch.equal(together[b], alone[0])


# ------------------------------------------------------------------------------------------------
# Products that are not finite
# ------------------------------------------------------------------------------------------------

IMPLS = pytest.mark.parametrize("impl", ["reference", "triton"])
NAN, INFINITY = float("nan"), float("inf")


VISUAL = slice(3, 25)


def finite(keys: int) -> dict[str, Tensor]:
    return {"query": noise(2, 4, 3, 16), "key": 20 + noise(2, 2, keys, 16, seed=1)}


@cache
def finite_scores(keys: int, impl: str) -> Tensor:
    return score_visual_tokens(**finite(keys), visual_slice=VISUAL, impl=impl)


@pytest.mark.sample(16)
@IMPLS
@pytest.mark.parametrize("where", ["key", "query"])
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, 3e38, -3e38], ids=str)
@pytest.mark.parametrize("keys", SCORE_NOT_FINITE_KEYS)
def test_a_product_that_is_not_finite_makes_its_sample_s_scores_nan(
    keys: int, value: float, where: str, impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one row and key, wherever; the other sample's scores are as they were."""
    small_blocks(monkeypatch)
    tensors = finite(keys)
    tensors[where][1, 1, 2, 5] = value
    scores = score_visual_tokens(**tensors, visual_slice=VISUAL, impl=impl)
    assert scores[1].isnan().all()
    assert torch.equal(scores[0], finite_scores(keys, impl)[0])


@IMPLS
def test_a_key_that_no_row_sees_may_hold_anything(impl: str) -> None:
    query, key = noise(1, 4, 2, 16), noise(1, 2, 40, 16, seed=1)
    mask = torch.ones(1, 40, dtype=torch.bool)
    mask[0, 7] = False
    options: dict[str, Any] = {"key_mask": mask, "causal_offset": 30, "impl": impl}
    whole = score_visual_tokens(query, key, slice(3, 30), **options)
    key[0, :, 7], key[0, :, 32:] = NAN, INFINITY
    scores = score_visual_tokens(query, key, slice(3, 30), **options)
    assert torch.equal(scores, whole)


@IMPLS
def test_no_probability_is_above_one(impl: str) -> None:
    """Logits as large as they can be without an overflow: the softmax is a maximum."""
    query, key = torch.full((1, 2, 2, 16), 1e18), noise(1, 2, 40, 16, seed=1)
    scores = score_visual_tokens(query, 1e18 * key, slice(0, 40), impl=impl)
    assert scores.max() == 1 and scores.min() == 0


# ------------------------------------------------------------------------------------------------
# Arguments
# ------------------------------------------------------------------------------------------------


@IMPLS
def test_scores_are_written_to_a_tensor_of_the_caller(impl: str) -> None:
    query, key = noise(2, 4, 3, 16), noise(2, 2, 40, 16, seed=1)
    expected = score_visual_tokens(query, key, slice(3, 30), impl=impl)
    out = torch.full((2, 27), -1.0)
    assert score_visual_tokens(query, key, slice(3, 30), impl=impl, out=out) is out
    assert torch.equal(out, expected)


Q, K = noise(2, 4, 3, 8), noise(2, 2, 10, 8)
VALID: dict[str, Any] = {"query": Q, "key": K, "visual_slice": slice(2, 6)}


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        pytest.param({"query": Q[0]}, ValueError, r"query .*got shape \[4, 3, 8\]", id="3-D"),
        pytest.param({"query": Q.long()}, TypeError, "query .*got torch.int64", id="int64"),
        pytest.param({"query": 1}, TypeError, "query .*got int", id="no-tensor"),
        pytest.param({"query": Q[:, :, :0]}, ValueError, "query .*empty dimension", id="no-row"),
        pytest.param({"key": K[:, :, :0]}, ValueError, "key .*empty dimension", id="no-key"),
        pytest.param({"key": K.half()}, TypeError, "key .*dtype of query", id="two-dtypes"),
        pytest.param({"key": K.to("meta")}, ValueError, "key .*device .*got meta", id="devices"),
        pytest.param({"key": K[:1]}, ValueError, r"key .*got shape \[1, 2", id="batch"),
        pytest.param({"key": K[..., :4]}, ValueError, r"key .*10, 4\]", id="head-dim"),
        pytest.param({"query": Q[:, :3]}, ValueError, "divides its 3", id="heads"),
        pytest.param({"visual_slice": (2, 6)}, TypeError, "visual_slice .*got tuple", id="tuple"),
        pytest.param({"visual_slice": slice(2, 11)}, ValueError, "visual_slice", id="overrun"),
        pytest.param({"visual_slice": slice(4, 4)}, ValueError, "visual_slice", id="empty"),
        pytest.param({"visual_slice": slice(0, 6, 2)}, ValueError, "visual_slice", id="step"),
        pytest.param({"causal_offset": -1}, ValueError, "causal_offset .*got -1", id="offset"),
        pytest.param({"causal_offset": 1.0}, TypeError, "causal_offset .*got 1.0", id="float"),
        pytest.param({"scale": NAN}, ValueError, "scale must be finite, got nan", id="nan-scale"),
        pytest.param({"scale": INFINITY}, ValueError, "scale must be finite", id="infinite-scale"),
        pytest.param({"scale": "1"}, TypeError, "scale must be a number, got '1'", id="text-scale"),
        pytest.param({"out": torch.empty(2, 5)}, ValueError, r"out .*\[2, 4\]", id="out-shape"),
        pytest.param({"out": torch.empty(2, 4).half()}, TypeError, "out .*float32", id="out-dtype"),
        pytest.param(
            {"out": torch.empty(4, 2).T}, ValueError, "out .*contiguous", id="out-strides"
        ),
        pytest.param(
            {"out": Q.view(-1)[:8].view(2, 4)}, ValueError, "out must not share", id="out-is-query"
        ),
        pytest.param({"key_mask": K}, TypeError, "key_mask .*got torch.float32", id="mask-dtype"),
        pytest.param(
            {"key_mask": torch.ones(2, 9, dtype=torch.bool)},
            ValueError,
            r"key_mask .*\[2, 10\], got \[2, 9\]",
            id="mask-shape",
        ),
        pytest.param(
            {"key_mask": torch.ones(2, 10, dtype=torch.bool, device="meta")},
            ValueError,
            "key_mask .*device of key, cpu, got meta",
            id="mask-device",
        ),
    ],
)
def test_wrong_arguments_are_refused(
    changed: dict[str, Any], error: type[Exception], message: str, impl: str
) -> None:
    with pytest.raises(error, match=message):
        score_visual_tokens(**{**VALID, **changed}, impl=impl)


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_rows_that_stand_behind_all_keys_see_all(impl: str) -> None:
    """Up to the largest offset, which a row's number must not push over 32 bits."""
    expected = score_visual_tokens(Q, K, slice(2, 6), impl=impl)
    for offset in (9, 10, 2**31 - 1):
        found = score_visual_tokens(Q, K, slice(2, 6), causal_offset=offset, impl=impl)
        assert torch.equal(found, expected), offset


def test_more_heads_than_a_grid_s_last_axis_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """70,000 of all samples together: CUDA grids end at 65,535 but in their first dimension."""
    grids: list[tuple[int, ...]] = []

    def launched(executor: GridExecutor, *args: object, **kwargs: object) -> None:
        grids.append(executor.grid)

    monkeypatch.setattr(GridExecutor, "__call__", launched)
    query, key = torch.empty(35_000, 2, 1, 16), torch.empty(35_000, 2, 4, 16)
    score_visual_tokens(query, key, slice(0, 4), impl="triton")
    assert [grid[0] for grid in grids] == [70_000, 70_000]
    assert all(extent <= 65_535 for grid in grids for extent in grid[1:])
