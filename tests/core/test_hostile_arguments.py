"""Every public function with values of every kind in every place: a result, or one named error.

What other code raises about a value (torch's "Could not run 'aten::as_strided'", Python's "object
is not iterable") is a fault of ours here, and so is an error that is no TypeError or ValueError.
"""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT

from prunevid_kernels import (
    PruneVidConfig,
    budget_tokens,
    compact,
    dpc_knn,
    merge_video,
    merge_videos,
    score_visual_tokens,
    segment_frames,
    select_tokens,
    warm_up,
)

CONFIG = PruneVidConfig()
X = torch.rand(4, 6, 8, generator=torch.Generator().manual_seed(0))
MERGED = merge_video(X, CONFIG)
LENGTH = MERGED.layout.num_merged
QUERY, KEY = torch.rand(1, 4, 3, 8), torch.rand(1, 2, 8 + LENGTH, 8)


def values() -> Iterator[Any]:
    """What a caller may have in hand by mistake."""
    yield from (None, 0, -1, 1, 2, 10**30, True, 1.5, math.nan, math.inf, Fraction(1, 3))
    yield from ("x", "", b"x", [], [1], (1, 2), {}, {"a": 1}, set(), object(), int, torch.float32)
    yield from (slice(None), slice(5, 1), slice(0, 2, 2), slice("a"), np.zeros((2, 3, 4)))
    yield from (np.float32(0.3), np.int64(2), torch.tensor(1), torch.tensor([]))
    zeros = torch.zeros(2, 3, 4)
    yield from (zeros, zeros[0], zeros[:0], zeros.long(), zeros.double(), zeros.to(torch.complex64))
    yield from (zeros + math.nan, zeros.to_sparse(), zeros.to("meta"), [zeros, None])
    yield from ([zeros.to_sparse()], torch.tensor([0, 1]).to_sparse(), (zeros > 0).to_sparse())
    yield from (torch.tensor([0, -1]), torch.tensor([[0], [1]]), torch.tensor([True, False]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        yield torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)])


CALLS: dict[Callable[..., Any], dict[str, Any]] = {
    merge_video: {"features": X, "config": CONFIG, "impl": "reference", "out": None},
    merge_videos: {"features": X, "frames_per_video": [3, 1], "config": CONFIG},
    segment_frames: {"frame_features": X[:, 0], "config": CONFIG},
    dpc_knn: {"x": X, "num_clusters": 2, "num_neighbors": 3, "lengths": [3, 4, 5, 6]},
    score_visual_tokens: {
        "query": QUERY,
        "key": KEY,
        "visual_slice": slice(5, 5 + LENGTH),
        "scale": 0.3,
        "causal_offset": None,
        "key_mask": None,
        "out": None,
    },
    select_tokens: {"scores": torch.rand(LENGTH), "layout": MERGED.layout, "config": CONFIG},
    compact: {"tensors": [X, X], "index": torch.tensor([0, 2]), "dim": 1, "out": None},
    budget_tokens: {"frames": 4, "tokens_per_frame": 6, "retain": 0.5},
    warm_up: {"shapes": [], "config": CONFIG, "attention": [], "device": "cpu"},
    PruneVidConfig: {
        "tau": 0.8,
        "keep_ratio": 0.4,
        "layer": 2,
        "num_neighbors": 7,
        "budget": None,
        "merge": True,
    },
}


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_every_argument_with_values_of_every_kind(function):
    function(**CALLS[function])  # as it is meant to be called
    refused = 0
    for name in CALLS[function]:
        for value in values():
            try:
                function(**{**CALLS[function], name: value})
            except (TypeError, ValueError) as error:
                refused += 1
                last = traceback.extract_tb(error.__traceback__)[-1]
                is_ours = Path(last.filename).is_relative_to(ROOT / "prunevid_kernels")
                assert is_ours and "raise" in str(last.line), f"{name}={value!r}: {error}"
    assert refused > 10 * len(CALLS[function])


def test_points_that_are_not_finite_are_named():
    spoilt = X.clone()
    spoilt[1, 2, 3] = math.inf
    with pytest.raises(ValueError, match=r"x must be finite, got NaN or infinity at \[1, 2\]"):
        dpc_knn(spoilt, 2)
    dpc_knn(spoilt, 2, lengths=[6, 2, 6, 6])  # beyond the row's length
    with pytest.raises(ValueError, match=r"frame_features must be finite.* at \[1\]"):
        segment_frames(spoilt[:, 2], CONFIG)


def test_tensors_that_come_one_by_one_are_taken():
    (first, second) = compact((x for x in (X, X)), torch.tensor([0]), dim=1)
    assert first.equal(second) and first.equal(X[:, :1])
