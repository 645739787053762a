"""Question -> visual attention scores without an attention matrix.

    score[v] = max over heads h and question rows q of exp(scale * q[h, q] k[v] - lse[h, q])

Two launches. The first finds the log-sum-exp of every row over all keys, split over blocks of keys
so that few rows fill the chip. The second visits the visual keys alone, a program for a block of
rows and keys, so that none goes through many rows alone, and takes the maximum. The
query heads that share a key head are rows of one tile, so grouped-query attention reads each key
once. Memory is O(rows + V).

The maximum over heads is an atomic integer maximum on the bits of non-negative floats, which order
as the floats do: a maximum has no rounding, so the order of arrival cannot change the result. The
bits of NaN order above those of infinity, so the maximum of bits keeps a NaN, which one of floats
drops: a row with a product that is not finite makes every score of its sample NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from prunevid_kernels.kernels._device import (
    ceil_div,
    config_for,
    dot,
    in_memory,
    is_interpreted,
    power_of_2_from,
)
from prunevid_kernels.kernels._launch import alike, launch, specialised

NAN_BITS = tl.constexpr(0x7FC00000)

# What differs from prompt to prompt. Strides and the head dim stay specialised: they are the
# model's, and say how wide an access may be.
_UNSPECIALIZED = (
    "num_kv_heads",
    "group",
    "Q",
    "S",
    "V",
    "first_visual",
    "causal_offset",
    "keys_per_split",
    "num_splits",
)


@triton.jit
def _load_queries(
    q_ptr,
    row,
    kv_head,
    group,
    Q,
    D,
    stride_q_h,
    stride_q_q,
    BLOCK_D: tl.constexpr,
):
    """Rows of the query heads of ``kv_head``: row r is question row r % Q of head r // Q."""
    d = tl.arange(0, BLOCK_D)
    head = (kv_head * group + row // Q).to(tl.int64)
    offset = head * stride_q_h + (row % Q).to(tl.int64) * stride_q_q
    ptrs = q_ptr + offset[:, None] + d[None, :]
    # [BLOCK_M, BLOCK_D]
    return tl.load(ptrs, mask=(row < group * Q)[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _logits(
    q,
    k_ptr,
    s,
    row,
    key_mask_ptr,
    Q,
    S,
    D,
    stride_k_s,
    scale,
    causal_offset,
    HAS_MASK: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Scaled products [BLOCK_M, BLOCK_S] of question rows and keys s; -inf: not seen, NaN: seen and
    not finite."""
    d = tl.arange(0, BLOCK_D)
    k_ptrs = k_ptr + s[None, :].to(tl.int64) * stride_k_s + d[:, None]
    k = tl.load(k_ptrs, mask=(s < S)[None, :] & (d < D)[:, None], other=0.0)  # [BLOCK_D, BLOCK_S]
    logits = dot(q, k, tl.zeros([BLOCK_M, BLOCK_S], dtype=tl.float32), INTERPRETED) * scale
    logits += logits - logits  # 0, or NaN of what is not finite
    sees = (s < S)[None, :]
    if IS_CAUSAL:
        sees = sees & (s[None, :] <= causal_offset + (row % Q)[:, None])
    if HAS_MASK:
        # The keys' mask: [BLOCK_S]
        sees = sees & (tl.load(key_mask_ptr + s, mask=s < S, other=0) != 0)[None, :]
    return tl.where(sees, logits, float("-inf"))


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _log_sum_kernel(
    # Read.
    q_ptr,
    k_ptr,
    key_mask_ptr,
    # Written.
    log_sum_ptr,
    score_ptr,
    # Sizes and strides.
    num_kv_heads,
    group,
    Q,
    S,
    D,
    V,
    stride_q_b,
    stride_q_h,
    stride_q_q,
    stride_k_b,
    stride_k_h,
    stride_k_s,
    scale,
    causal_offset,
    keys_per_split,
    HAS_MASK: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (batch and key head, rows, split): log_sum[split, b, kv_head, row] over the split's
    keys."""
    batch_head, split = tl.program_id(0), tl.program_id(2)
    b, kv_head = (batch_head // num_kv_heads).to(tl.int64), batch_head % num_kv_heads
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    first_key = split * keys_per_split
    last_key = tl.minimum(first_key + keys_per_split, S)

    q_ptr += b * stride_q_b
    k_ptr += b * stride_k_b + kv_head.to(tl.int64) * stride_k_h
    key_mask_ptr += b * S
    q = _load_queries(q_ptr, row, kv_head, group, Q, D, stride_q_h, stride_q_q, BLOCK_D)
    largest = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    for start in range(first_key, last_key, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        logits = _logits(
            q,
            k_ptr,
            s,
            row,
            key_mask_ptr,
            Q,
            last_key,
            D,
            stride_k_s,
            scale,
            causal_offset,
            HAS_MASK,
            IS_CAUSAL,
            INTERPRETED,
            BLOCK_M,
            BLOCK_S,
            BLOCK_D,
        )
        new_largest = tl.maximum(largest, tl.max(logits, axis=1))  # [BLOCK_M]
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # no key seen yet
        # [BLOCK_M]
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(logits - shift[:, None]), axis=1)
        largest = new_largest
    sees_any = total != 0.0  # true of NaN
    log_sum = tl.where(sees_any, largest + tl.log(tl.where(sees_any, total, 1.0)), float("-inf"))
    rows = group * Q
    out = (split.to(tl.int64) * tl.num_programs(0) + batch_head) * rows + row
    tl.store(log_sum_ptr + out, log_sum, mask=row < rows)

    if (tl.program_id(1) == 0) & (kv_head == 0):  # clear the scores for the second launch
        for start in range(first_key, last_key, BLOCK_S):
            v = start + tl.arange(0, BLOCK_S)
            zero = tl.zeros([BLOCK_S], dtype=tl.int32)
            tl.store(score_ptr + b * V + v, zero, mask=(v < last_key) & (v < V))


@triton.jit
def _row_log_sum(log_sum_ptr, row, rows, batch_head, num_splits, BLOCK_M: tl.constexpr):
    """[BLOCK_M] log-sum-exp over all keys; 0 where a row sees none: its logits are all -inf."""
    largest = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    part_ptrs = log_sum_ptr + batch_head.to(tl.int64) * rows + row
    for _ in range(num_splits):
        log_sum = tl.load(part_ptrs, mask=row < rows, other=float("-inf"))  # [BLOCK_M]
        new_largest = tl.maximum(largest, log_sum)
        shift = tl.where(new_largest > float("-inf"), new_largest, 0.0)
        total = total * tl.exp(largest - shift) + tl.exp(log_sum - shift)
        largest = new_largest
        part_ptrs += tl.num_programs(0).to(tl.int64) * rows
    shift = tl.where(largest > float("-inf"), largest, 0.0)
    sees_any = total != 0.0
    return tl.where(sees_any, shift + tl.log(tl.where(sees_any, total, 1.0)), 0.0)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _max_probability_kernel(
    # Read.
    q_ptr,
    k_ptr,
    key_mask_ptr,
    log_sum_ptr,
    # Written.
    score_ptr,
    # Sizes and strides.
    num_kv_heads,
    group,
    Q,
    S,
    D,
    first_visual,
    V,
    stride_q_b,
    stride_q_h,
    stride_q_q,
    stride_k_b,
    stride_k_h,
    stride_k_s,
    scale,
    causal_offset,
    num_splits,
    HAS_MASK: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (batch and key head, rows, visual keys): the maximum over those rows of that key
    head."""
    batch_head = tl.program_id(0)
    b, kv_head = (batch_head // num_kv_heads).to(tl.int64), batch_head % num_kv_heads
    v = tl.program_id(2) * BLOCK_S + tl.arange(0, BLOCK_S)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    q_ptr += b * stride_q_b
    k_ptr += b * stride_k_b + kv_head.to(tl.int64) * stride_k_h
    key_mask_ptr += b * S
    rows = group * Q
    q = _load_queries(q_ptr, row, kv_head, group, Q, D, stride_q_h, stride_q_q, BLOCK_D)
    logits = _logits(
        q,
        k_ptr,
        first_visual + v,
        row,
        key_mask_ptr,
        Q,
        S,
        D,
        stride_k_s,
        scale,
        causal_offset,
        HAS_MASK,
        IS_CAUSAL,
        INTERPRETED,
        BLOCK_M,
        BLOCK_S,
        BLOCK_D,
    )
    log_sum = _row_log_sum(log_sum_ptr, row, rows, batch_head, num_splits, BLOCK_M)
    probability = tl.exp(logits - log_sum[:, None])
    # Whatever the sign and payload of a NaN, it becomes the one whose bits order highest.
    bits = tl.where(probability == probability, probability.to(tl.int32, bitcast=True), NAN_BITS)
    bits = tl.where((row < rows)[:, None], bits, 0)
    best = tl.max(bits, axis=0)  # [BLOCK_S] bits of non-negative floats
    tl.atomic_max(score_ptr + b * V + v, best, mask=v < V)


def score_visual_tokens(
    query: Tensor,
    key: Tensor,
    first_visual: int,
    last_visual: int,
    scale: float,
    causal_offset: int | None,
    key_mask: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """Scores [B, V] float32 of keys [first_visual, last_visual); see
    :func:`prunevid_kernels.score_visual_tokens`."""
    batch, heads, q_rows, head_dim = query.shape
    kv_heads, num_keys = key.shape[1:3]
    if query.stride(3) != 1 or query.is_neg():
        query = in_memory(query)
    if key.stride(3) != 1 or key.is_neg():
        key = in_memory(key)
    device = query.device
    group = heads // kv_heads
    rows = group * q_rows
    num_visual = last_visual - first_visual

    config = config_for("token_score", device).copy()
    keys_per_split = config.pop("KEYS_PER_SPLIT")
    config["BLOCK_D"] = max(16, power_of_2_from(head_dim))
    splits = ceil_div(num_keys, keys_per_split)
    log_sums = torch.empty((splits, batch, kv_heads, rows), dtype=torch.float32, device=device)
    if out is None:
        out = torch.empty((batch, num_visual), dtype=torch.float32, device=device)
    flags = {
        "HAS_MASK": key_mask is not None,
        "IS_CAUSAL": causal_offset is not None,
        "INTERPRETED": is_interpreted(),
    }
    # What both kernels take, in their order.
    mask = query if key_mask is None else key_mask.contiguous().view(torch.uint8)
    tensors = (query, key, mask, log_sums, out.view(torch.int32))
    sizes = (kv_heads, group, q_rows, num_keys, head_dim)
    strides = (*query.stride()[:3], *key.stride()[:3])
    variant = (*alike(*tensors), head_dim, *specialised(strides))
    row_blocks = ceil_div(rows, config["BLOCK_M"])
    # From the last key on, a row sees all; no sum with a row's number leaves 32 bits.
    offset = 0 if causal_offset is None else min(causal_offset, num_keys)
    launch(
        _log_sum_kernel,
        variant,
        (batch * kv_heads, row_blocks, splits),
        (*tensors, *sizes, num_visual, *strides, scale, offset, keys_per_split),
        {**flags, **config},
    )
    launch(
        _max_probability_kernel,
        variant,
        (batch * kv_heads, row_blocks, ceil_div(num_visual, config["BLOCK_S"])),
        (*tensors, *sizes, first_visual, num_visual, *strides, scale, offset, splits),
        {**flags, **config},
    )
    return out
