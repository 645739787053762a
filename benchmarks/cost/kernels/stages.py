"""The three stages as benchmarks: every way to do each, how results are checked, the cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prunevid_kernels import (
    MergedVideo,
    PruneVidConfig,
    compact,
    merge_video,
    score_visual_tokens,
)

from ..ceilings import GroupTokens, compact_cost, cosine_pruning_cost, merge_cost, score_cost
from ..harness import OURS, Benchmark, IncorrectResultError, Variant
from ..timing import num_bytes
from . import eager_variants as eager
from .cases import (
    AttentionInputs,
    Case,
    CompactionInputs,
    attention_inputs,
    compaction_inputs,
    video_features,
)
from .eager_loops import merge_in_loops
from .near_ties import examine

STAGES = ("merge", "score", "compact")
CONFIG = PruneVidConfig()


def stage_benchmarks(
    case: Case,
    device: torch.device,
    *,
    stages: tuple[str, ...] = STAGES,
    with_kernels: bool = True,
    with_compile: bool = True,
) -> Iterator[Benchmark[Any]]:
    """One benchmark a stage; made when it is asked for, because making it draws its inputs.

    Args:
        with_kernels: include this library's kernels: on a GPU, or under Triton's interpreter.
        with_compile: include the variants under ``torch.compile``.

    Raises:
        ValueError: an unknown stage.
    """
    builders: dict[str, Callable[..., Benchmark[Any]]]
    builders = {"merge": merge_benchmark, "score": score_benchmark, "compact": compact_benchmark}
    for stage in stages:
        if stage not in builders:
            raise ValueError(f"stage must be one of {', '.join(builders)}, got {stage!r}")
        torch.compiler.reset()  # a function is compiled for a limited number of shapes only
        yield builders[stage](case, device, with_kernels, with_compile)


def merge_benchmark(
    case: Case, device: torch.device, with_kernels: bool, with_compile: bool
) -> Benchmark[Tensor]:
    """Features [T, N, C] -> merged tokens and their layout."""

    def features(seed: int) -> Tensor:
        model = case.model
        return video_features(
            case.frames,
            model.tokens_per_frame,
            model.channels,
            seed=seed,
            device=device,
            dtype=case.dtype,
        )

    first = features(0)
    layout = merge_video(first, CONFIG).layout
    kept = layout.num_merged
    variants: list[Variant[Tensor]] = [
        Variant(
            "eager loops",
            partial(merge_in_loops, config=CONFIG),
            _check_merge,
            is_baseline=True,
        ),
        Variant("vectorised eager", eager.VectorisedMerge(CONFIG), _check_merge),
    ]
    if with_compile:
        compiled = eager.VectorisedMerge(CONFIG, torch.compile)
        variants.append(
            Variant("vectorised, torch.compile", compiled, _check_merge, is_compiled=True)
        )
    variants.append(
        Variant(
            "cosine to previous frame + argsort",
            partial(eager.cosine_pruning, kept=kept),
            _check_cosine_pruning,
            is_capturable=True,
            cost=cosine_pruning_cost(case, kept),
        )
    )
    if with_kernels:
        ours = partial(merge_video, config=CONFIG, impl="triton")
        variants.append(Variant(OURS, ours, _check_merge))
        # As many tokens as the threshold gives for the first video, known before: no host copy.
        budget = PruneVidConfig(budget=kept)
        variants.append(
            Variant(
                f"{OURS}, budget",
                partial(merge_video, config=budget, impl="triton"),
                partial(_check_merge, config=budget),
                is_capturable=True,
            )
        )
    cost = merge_cost(case, kept, GroupTokens.of_layout(layout))
    return Benchmark("merge", case.describe(), features, num_bytes([first]), variants, cost)


def score_benchmark(
    case: Case, device: torch.device, with_kernels: bool, with_compile: bool
) -> Benchmark[AttentionInputs]:
    """Queries and keys of one layer -> a score for each visual token; un-rotated, no mask."""
    inputs = partial(_attention, case, device)
    example = inputs(0)
    variants = [
        Variant(
            "full eager attention",
            eager.full_attention_scores,
            _check_scores,
            is_baseline=True,
            is_capturable=True,
            working_bytes=eager.full_attention_bytes(example),
        ),
        Variant(
            "partial eager attention",
            eager.partial_attention_scores,
            _check_scores,
            is_capturable=True,
        ),
    ]
    if with_compile:
        compiled = torch.compile(eager.partial_attention_scores)
        variants.append(
            Variant(
                "partial, torch.compile",
                compiled,
                _check_scores,
                is_capturable=True,
                is_compiled=True,
            )
        )
    if with_kernels:
        variants.append(Variant(OURS, _score_ours, _check_scores, is_capturable=True))
    read = num_bytes([example.question_query, example.key])
    return Benchmark("score", case.describe(), inputs, read, variants, score_cost(case))


def compact_benchmark(
    case: Case, device: torch.device, with_kernels: bool, with_compile: bool
) -> Benchmark[CompactionInputs]:
    """Hidden states and the caches of layers 0..M -> their kept entries."""
    inputs = partial(_compaction, case, device)
    example = inputs(0)
    variants = [
        Variant(
            "index_select each",
            eager.index_select_each,
            _check_compaction,
            is_baseline=True,
            is_capturable=True,
        )
    ]
    if with_compile:
        compiled = torch.compile(eager.index_select_each)
        variants.append(
            Variant(
                "index_select, torch.compile",
                compiled,
                _check_compaction,
                is_capturable=True,
                is_compiled=True,
            )
        )
    if with_kernels:
        variants.append(Variant(OURS, _compact_ours, _check_compaction, is_capturable=True))
    cost = compact_cost(case)
    return Benchmark("compact", case.describe(), inputs, num_bytes(example.tensors), variants, cost)


def _attention(case: Case, device: torch.device, seed: int) -> AttentionInputs:
    return attention_inputs(case, seed=seed, device=device)


def _compaction(case: Case, device: torch.device, seed: int) -> CompactionInputs:
    return compaction_inputs(case, seed=seed, device=device)


def _score_ours(inputs: AttentionInputs) -> Tensor:
    return score_visual_tokens(
        inputs.question_query, inputs.key, inputs.visual_slice, impl="triton"
    )


def _compact_ours(inputs: CompactionInputs) -> list[Tensor]:
    return compact(inputs.tensors, inputs.index, dim=2, impl="triton")


# ------------------------------------------------------------------------------------------------
# Checks
# ------------------------------------------------------------------------------------------------


def _check_merge(features: Tensor, merged: MergedVideo, config: PruneVidConfig = CONFIG) -> None:
    errors = examine(features, config, merged).errors
    if errors:
        raise IncorrectResultError(f"{len(errors)} errors, first: {errors[0]}")


def _check_cosine_pruning(features: Tensor, output: tuple[Tensor, Tensor]) -> None:
    tokens, places = output
    if not torch.equal(tokens, features.flatten(0, 1)[places]):
        raise IncorrectResultError("the tokens are not those at the kept places")
    exact = eager.novelty(features.double()).flatten()
    is_kept = torch.zeros_like(exact, dtype=torch.bool).index_fill_(0, places, True)
    if int(is_kept.sum()) != len(places):
        raise IncorrectResultError("a place is kept twice")
    if bool(is_kept.all()):
        return
    least_kept, most_dropped = exact[is_kept].min().item(), exact[~is_kept].max().item()
    if least_kept < most_dropped - 1e-5:
        raise IncorrectResultError(
            f"kept a token of novelty {least_kept:.6f}, dropped one of {most_dropped:.6f}"
        )


def _check_scores(inputs: AttentionInputs, scores: Tensor) -> None:
    """Off from float64 by no more than eager attention in the inputs' own dtype, or twice that,
    since the full matrix's rows may be summed in another order than the question rows alone."""
    query, key = inputs.question_query.double(), inputs.key.double()
    truth = eager.attention_scores(query, key, inputs.visual_slice)
    rounded = eager.partial_attention_scores(inputs).double()
    error = (scores.double() - truth).abs().max().item()
    eager_error = (rounded - truth).abs().max().item()
    if not error <= 2 * eager_error + 1e-5:
        raise IncorrectResultError(f"a score is off by {error:.3g}, eager by {eager_error:.3g}")


def _check_compaction(inputs: CompactionInputs, output: list[Tensor]) -> None:
    for position, (tensor, cut) in enumerate(zip(inputs.tensors, output, strict=True)):
        if not torch.equal(cut, tensor[:, :, inputs.index]):
            raise IncorrectResultError(f"tensor {position} is not cut to the kept places")
