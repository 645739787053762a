"""Checks of the kernels on the device they are made for, against float64 and against themselves.

A check compares with something computed apart from the kernels: float64, stored results, torch's
own indexing, the same video alone. Inputs are drawn anew for each. A check that raises has failed,
and the message is its result: the others still run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch

from prunevid_kernels import (
    MergedVideo,
    PruneVidConfig,
    TokenLayout,
    compact,
    merge_video,
    merge_videos,
    score_visual_tokens,
    segment_frames,
)

from ..cost.kernels.cases import (
    DTYPES,
    MODELS,
    REDUCED,
    Case,
    CaseModel,
    attention_inputs,
    compaction_inputs,
    video_features,
)
from ..cost.kernels.eager_variants import attention_scores
from ..cost.kernels.near_ties import Verdict, examine, examine_tokens
from ..cost.launches import LaunchCounts, count_launches


@dataclass
class Outcome:
    """What a check found.

    Attributes:
        status: ``"passed"``, ``"failed"`` or ``"skipped"``; ``reason`` says why.
        decisions: decisions that were judged; ``near_ties`` of them differ from float64's own
            within float32's error.
        error: largest error found of a float; ``allowed_error`` the largest that passes.
    """

    status: str = "passed"
    reason: str | None = None
    decisions: int = 0
    near_ties: int = 0
    error: float | None = None
    allowed_error: float | None = None

    @classmethod
    def failed(cls, reason: str) -> Outcome:
        return cls(status="failed", reason=reason)

    @classmethod
    def skipped(cls, reason: str) -> Outcome:
        return cls(status="skipped", reason=reason)

    @classmethod
    def of_verdict(cls, verdict: Verdict) -> Outcome:
        return cls(
            status="failed" if verdict.errors else "passed",
            reason="; ".join(verdict.errors[:3]) or None,
            decisions=verdict.decisions,
            near_ties=verdict.near_ties,
            error=verdict.token_error,
            allowed_error=verdict.allowed_error,
        )


@dataclass(frozen=True)
class Check:
    """``group`` and ``name`` say what is checked, ``run`` does it."""

    group: str
    name: str
    dtype: str
    run: Callable[[], Outcome]

    def record(self) -> dict[str, Any]:
        """Run it; the outcome as it goes into a results file."""
        # Whatever a kernel raises here, a CUDA fault included, is the finding.
        try:
            outcome = self.run()
        except Exception as error:
            text = " ".join(str(error).split())
            outcome = Outcome.failed(f"{type(error).__name__}: {text[:400]}")
        return {
            "group": self.group,
            "name": self.name,
            "dtype": self.dtype,
            **asdict(outcome),
        }


def random_checks(device: torch.device, *, is_tiny: bool) -> Iterator[Check]:
    """Structured random videos, prompts and caches at the models' sizes, or tiny ones."""
    models = [REDUCED] if is_tiny else list(MODELS.values())
    dtypes = ("bf16",) if is_tiny else tuple(DTYPES)
    for model in models:
        for dtype in dtypes:
            case = Case(model, model.frames, dtype)
            yield Check("merge", case.name, dtype, partial(_merge, case, device))
            yield Check("budget", case.name, dtype, partial(_budget, case, device))
            yield Check("score", case.name, dtype, partial(_score, case, device))
            yield Check("compact", case.name, dtype, partial(_compact, case, device))
    yield Check("launches", "of every stage", "bf16", partial(_launches, models[0], device))
    for dtype in dtypes:
        ragged = (1, 4) if is_tiny else (32, 5, 1, 17, 64)
        model = models[0]
        check = partial(_ragged, ragged, Case(model, model.frames, dtype), device)
        yield Check("batch", f"videos of {ragged} frames, together and alone", dtype, check)
        check = partial(_repeatable, Case(model, model.frames, dtype), device)
        yield Check("repeat", "runs give the same bits", dtype, check)
    for frames, n, channels in UGLY[2:3] if is_tiny else UGLY:
        for dtype in dtypes:
            check = partial(_ugly, frames, n, channels, device, DTYPES[dtype])
            yield Check("shape", f"{frames}x{n}x{channels}", dtype, check)
    for frame in (0, 3):
        yield Check("error", f"infinity in frame {frame}", "bf16", partial(_bad, frame, device))


# One frame, one token, no power of two, a group of 14 and one of 15, many frames.
UGLY = (
    (1, 1, 8),
    (1, 20, 32),
    (7, 15, 40),
    (2, 14, 64),
    (63, 31, 507),
    (507, 7, 63),
    (16, 1, 3584),
    (33, 577, 129),
)


def _features(case: Case, frames: int, device: torch.device, seed: int) -> torch.Tensor:
    n, channels = case.model.tokens_per_frame, case.model.channels
    return video_features(frames, n, channels, seed=seed, device=device, dtype=case.dtype)


def _merge(case: Case, device: torch.device) -> Outcome:
    """Every decision and token against float64; frame segments by their own function, too."""
    config, verdict = PruneVidConfig(), Verdict()
    for seed in (101, 102) if device.type == "cuda" else (101,):
        x = _features(case, case.frames, device, seed)
        merged = merge_video(x, config, impl="triton")
        verdict += examine(x, config, merged)
        segment = segment_frames(x.float().mean(dim=1), config, impl="triton")
        if int(segment.max()) + 1 != len(segment.unique()):
            verdict.errors.append("segment_frames skips a segment")
    return Outcome.of_verdict(verdict)


def _budget(case: Case, device: torch.device) -> Outcome:
    """Exactly so many tokens, the same decisions; the threshold's count gives its result, and no
    token is left out at less than a token a group."""
    x, verdict = _features(case, case.frames, device, 105), Verdict()
    threshold = merge_video(x, PruneVidConfig(), impl="triton")
    for retain in (0.3, threshold.layout.num_merged):
        config = PruneVidConfig(budget=retain)
        merged = merge_video(x, config, impl="triton")
        verdict += examine(x, config, merged)
    if not _is_same(merged, threshold):
        verdict.errors.append("the threshold's count as a budget gives another result")
    # Less than a token a group: neighbours share them, by the threshold's groups.
    group = threshold.layout.merged_groups().to(device)[threshold.layout.source_to_merged]
    held, place = group.unique(return_inverse=True)
    for count in (1, max(1, len(held) // 2)):
        merged = merge_video(x, PruneVidConfig(budget=count), impl="triton")
        verdict += examine_tokens(x, merged)
        if not torch.equal(merged.layout.source_to_merged, place * count // len(held)):
            verdict.errors.append(f"a budget of {count} is not shared by neighbouring groups")
    return Outcome.of_verdict(verdict)


MERGE_LAUNCHES = 10  # of videos of at most 64 frames


def _launches(model: CaseModel, device: torch.device) -> Outcome:
    """As many launches and host copies as the design allows."""
    case = Case(model, model.frames, "bf16")
    x = _features(case, case.frames, device, 106)
    attention = attention_inputs(case, seed=106, device=device)
    cut = compaction_inputs(case, seed=106, device=device)
    query, key, visual = attention.question_query, attention.key, attention.visual_slice
    work: dict[str, tuple[Callable[[], object], list[torch.Tensor], LaunchCounts]] = {
        "merge": (
            lambda: merge_video(x, PruneVidConfig(), impl="triton"),
            [x],
            LaunchCounts(triton=MERGE_LAUNCHES, host_copies=1),
        ),
        "merge to a budget": (
            lambda: merge_video(x, PruneVidConfig(budget=0.3), impl="triton"),
            [x],
            LaunchCounts(triton=MERGE_LAUNCHES),
        ),
        "scoring": (
            lambda: score_visual_tokens(query, key, visual, impl="triton"),
            [query, key],
            LaunchCounts(triton=2),
        ),
        "compaction": (
            lambda: compact(cut.tensors, cut.index, dim=2, impl="triton"),
            [*cut.tensors, cut.index],
            LaunchCounts(triton=2),  # hidden states; keys and values
        ),
    }
    for name, (run, inputs, allowed) in work.items():
        counts = count_launches(run, device, inputs)
        is_more = counts.triton > allowed.triton or counts.host_copies > allowed.host_copies
        if is_more or counts.device_copies:
            return Outcome.failed(f"{name}: {counts}, allowed are {allowed}")
    return Outcome(decisions=len(work))


def _score(case: Case, device: torch.device) -> Outcome:
    """Un-rotated, causal and masked scores against float64."""
    inputs = attention_inputs(case, seed=103, device=device, batch=2)
    query, key, visual = inputs.question_query, inputs.key, inputs.visual_slice
    mask = torch.ones((2, key.shape[2]), dtype=torch.bool, device=device)
    mask[0, : max(1, visual.start // 2)] = False
    worst, allowed = 0.0, 1e-5
    modes: dict[str, dict[str, Any]] = {
        "no mask": {},
        "a causal offset": {"causal_offset": visual.stop},
        "a key mask": {"key_mask": mask},
    }
    for mode, options in modes.items():
        ours = score_visual_tokens(query, key, visual, impl="triton", **options)
        reference = score_visual_tokens(query, key, visual, impl="reference", **options)
        truth = reference.double()
        if not options:  # float32's own error, seen once
            truth = attention_scores(query.double(), key.double(), visual)
            allowed += (reference.double() - truth).abs().max().item()
        worst = max(worst, (ours.double() - truth).abs().max().item())
        if not worst <= allowed:
            return Outcome.failed(f"with {mode}: a score is off by {worst:.3g}")
    return Outcome(decisions=3 * truth.numel(), error=worst, allowed_error=allowed)


def _compact(case: Case, device: torch.device) -> Outcome:
    """One index for all rows, and one for each row, against torch's own gathering."""
    inputs = compaction_inputs(case, seed=104, device=device, batch=2)
    both = torch.stack((inputs.index, inputs.index.roll(1)))
    for index in (inputs.index, both):
        ours = compact(inputs.tensors, index, dim=2, impl="triton")
        reference = compact(inputs.tensors, index, dim=2, impl="reference")
        for a, b in zip(ours, reference, strict=True):
            if not torch.equal(a, b):
                return Outcome.failed(f"index {list(index.shape)}: other values than by indexing")
    return Outcome(decisions=len(inputs.tensors), error=0.0, allowed_error=0.0)


def _ragged(frames: Sequence[int], case: Case, device: torch.device) -> Outcome:
    videos = [_features(case, count, device, 110 + i) for i, count in enumerate(frames)]
    config, verdict = PruneVidConfig(), Verdict()
    together = merge_videos(torch.cat(videos), frames, config, impl="triton")
    for position, (video, merged) in enumerate(zip(videos, together, strict=True)):
        alone = merge_video(video, config, impl="triton")
        if not _is_same(alone, merged):
            verdict.errors.append(f"video {position} differs from its result alone")
        verdict += examine(video, config, merged)
    return Outcome.of_verdict(verdict)


def _repeatable(case: Case, device: torch.device) -> Outcome:
    x = _features(case, case.frames, device, 120)
    first = merge_video(x, PruneVidConfig(), impl="triton")
    runs = 20 if device.type == "cuda" else 2
    for run in range(1, runs):
        if not _is_same(first, merge_video(x, PruneVidConfig(), impl="triton")):
            return Outcome.failed(f"run {run} differs from the first")
    return Outcome(decisions=runs)


def _ugly(frames: int, n: int, channels: int, device: torch.device, dtype: torch.dtype) -> Outcome:
    config, verdict = PruneVidConfig(), Verdict()
    still = video_features(1, n, channels, seed=130, device=device, dtype=dtype)
    moving = video_features(frames, n, channels, seed=131, device=device, dtype=dtype)
    strided = torch.stack((moving, moving), dim=-1)[..., 0]
    for x in (moving, still.expand(frames, n, channels), strided):
        verdict += examine(x, config, merge_video(x, config, impl="triton"))
    return Outcome.of_verdict(verdict)


def _bad(frame: int, device: torch.device) -> Outcome:
    x = video_features(8, 20, 32, seed=140, device=device, dtype=torch.bfloat16)
    x[frame:, 5, 7] = float("inf")
    try:
        merge_video(x, PruneVidConfig(), impl="triton")
    except ValueError as error:
        if f"frame {frame} " in str(error):
            return Outcome(decisions=1)
        return Outcome.failed(f"names another frame: {error}")
    return Outcome.failed("was accepted")


def _is_same(a: MergedVideo, b: MergedVideo) -> bool:
    """Bit for bit."""
    return torch.equal(a.tokens, b.tokens) and all(
        torch.equal(getattr(a.layout, field.name), getattr(b.layout, field.name))
        for field in fields(TokenLayout)
    )
