"""The three stages as benchmarks: every way to do each, how results are checked, the cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from prunevid_kernels import (
    MergedVideo,
    PruneVidConfig,
    compact,
    merge_video,
    score_visual_tokens,
)

from ..harness import OURS, Benchmark, IncorrectResultError, Variant
from ..timing import num_bytes
from . import eager_variants as eager
from . import engine_pruning as engines
from .cases import (
    AttentionInputs,
    Case,
    CompactionInputs,
    attention_inputs,
    compaction_inputs,
    video_features,
)
from .costs import GroupTokens, compact_cost, evs_cost, merge_cost, score_cost, vidcom2_cost
from .eager_loops import merge_in_loops
from .near_ties import examine

STAGES = ("merge", "score", "compact")
CONFIG = PruneVidConfig()

Ours = Literal["triton", "reference"]


def stage_benchmarks(
    case: Case,
    device: torch.device,
    *,
    stages: tuple[str, ...] = STAGES,
    ours: Ours = "triton",
    with_compile: bool = True,
) -> Iterator[Benchmark[Any]]:
    """One benchmark a stage; made when it is asked for, because making it draws its inputs.

    Args:
        ours: which of this library's implementations stands in the rows of its name: the kernels,
            on a GPU or under Triton's interpreter, or the reference.
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
        yield builders[stage](case, device, ours, with_compile)


def our_name(ours: Ours) -> str:
    """The name of our rows: it says so where they are the reference's."""
    return OURS if ours == "triton" else f"{OURS}, reference"


def merge_benchmark(
    case: Case, device: torch.device, ours: Ours, with_compile: bool
) -> Benchmark[Tensor]:
    """Features [T, N, C] -> merged tokens and their layout.

    Pruning as serving engines do it stands beside: as many tokens as the first video's merge gives.
    """

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
    name = our_name(ours)
    budget = PruneVidConfig(budget=kept)  # known before: no copy to the host
    loops = Variant(
        "eager loops",
        partial(merge_in_loops, config=CONFIG),
        _check_merge,
        is_baseline=True,
        note="as released, with plain torch.cdist",
    )
    vectorised = Variant("vectorised eager", eager.VectorisedMerge(CONFIG), _check_merge)
    evs = Variant(
        "EVS, as in vLLM",
        partial(engines.evs, kept=kept),
        partial(engines.check_evs, kept=kept),
        is_capturable=True,
        cost=evs_cost(case, kept),
        note="keeps tokens, averages none; cosines in the features' dtype",
    )
    vidcom2 = Variant(
        "VidCom2, as in vLLM",
        partial(engines.vidcom2, kept=kept),
        partial(engines.check_vidcom2, kept=kept),
        is_capturable=True,
        cost=vidcom2_cost(case, kept),
        note="keeps tokens, averages none; in float32",
    )
    variants: list[Variant[Tensor]] = [loops, vectorised, evs, vidcom2]
    if with_compile:
        variants += [
            _compiled(vectorised, "vectorised", eager.VectorisedMerge(CONFIG, torch.compile)),
            _compiled(evs, "EVS", partial(torch.compile(engines.evs), kept=kept)),
            _compiled(vidcom2, "VidCom2", partial(torch.compile(engines.vidcom2), kept=kept)),
        ]
    budget = PruneVidConfig(budget=kept)  # known before: no copy to the host
    variants += [
        Variant(name, partial(merge_video, config=CONFIG, impl=ours), _check_merge),
        Variant(
            f"{name}, budget",
            partial(merge_video, config=budget, impl=ours),
            partial(_check_merge, config=budget),
            is_capturable=ours == "triton",
        ),
    ]
    cost = merge_cost(case, kept, GroupTokens.of_layout(layout))
    return Benchmark("merge", case.describe(), features, num_bytes([first]), variants, cost)


def score_benchmark(
    case: Case, device: torch.device, ours: Ours, with_compile: bool
) -> Benchmark[AttentionInputs]:
    """Queries and keys of one layer -> a score for each visual token; un-rotated, no mask."""
    inputs = partial(_attention, case, device)
    example = inputs(0)
    all_rows = Variant(
        "full eager attention",
        eager.full_attention_scores,
        _check_scores,
        is_baseline=True,
        is_capturable=True,
        working_bytes=eager.full_attention_bytes(example),
        note="as released: every row's attention, for the sake of the question's",
    )
    question_rows = Variant(
        "partial eager attention",
        eager.partial_attention_scores,
        _check_scores,
        is_capturable=True,
    )
    variants = [all_rows, question_rows]
    if with_compile:
        variants += [
            _compiled(all_rows, "full", torch.compile(eager.full_attention_scores)),
            _compiled(question_rows, "partial", torch.compile(eager.partial_attention_scores)),
        ]
    if device.type == "cuda" and eager.has_flash_colreduce():
        variants.append(
            Variant(
                "flash-colreduce",
                eager.flash_colreduce_scores,
                _check_scores,
                is_capturable=True,
                note="keys repeated for the query heads, maximum over heads taken after it",
            )
        )
    score = partial(_score_ours, impl=ours)
    variants.append(Variant(our_name(ours), score, _check_scores, is_capturable=True))
    read = num_bytes([example.question_query, example.key])
    return Benchmark("score", case.describe(), inputs, read, variants, score_cost(case))


def compact_benchmark(
    case: Case, device: torch.device, ours: Ours, with_compile: bool
) -> Benchmark[CompactionInputs]:
    """Hidden states and the caches of layers 0..M -> their kept entries."""
    inputs = partial(_compaction, case, device)
    example = inputs(0)
    each = Variant(
        "index_select each",
        eager.index_select_each,
        _check_compaction,
        is_baseline=True,
        is_capturable=True,
    )
    variants = [each]
    if with_compile:
        variants.append(_compiled(each, "index_select", torch.compile(eager.index_select_each)))
    cut = partial(_compact_ours, impl=ours)
    variants.append(Variant(our_name(ours), cut, _check_compaction, is_capturable=True))
    cost = compact_cost(case)
    return Benchmark("compact", case.describe(), inputs, num_bytes(example.tensors), variants, cost)


def _compiled(variant: Variant[Any], name: str, run: Callable[[Any], Any]) -> Variant[Any]:
    """A row more for the same work, ``run`` being what torch.compile makes of it. The loops have
    none: they leave the graph at every group."""
    return replace(
        variant, name=f"{name}, torch.compile", run=run, is_baseline=False, is_compiled=True
    )


def _attention(case: Case, device: torch.device, seed: int) -> AttentionInputs:
    return attention_inputs(case, seed=seed, device=device)


def _compaction(case: Case, device: torch.device, seed: int) -> CompactionInputs:
    return compaction_inputs(case, seed=seed, device=device)


def _score_ours(inputs: AttentionInputs, impl: Ours) -> Tensor:
    return score_visual_tokens(inputs.question_query, inputs.key, inputs.visual_slice, impl=impl)


def _compact_ours(inputs: CompactionInputs, impl: Ours) -> list[Tensor]:
    return compact(inputs.tensors, inputs.index, dim=2, impl=impl)


# ------------------------------------------------------------------------------------------------
# Checks
# ------------------------------------------------------------------------------------------------


def _check_merge(features: Tensor, merged: MergedVideo, config: PruneVidConfig = CONFIG) -> None:
    errors = examine(features, config, merged).errors
    if errors:
        raise IncorrectResultError(f"{len(errors)} errors, first: {errors[0]}")


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
