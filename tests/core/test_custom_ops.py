"""The custom ops: what opcheck asks of an op; torch.compile and torch.export trace them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils import _pytree as pytree

import prunevid_kernels
from prunevid_kernels import PruneVidConfig, compact, merge_video, score_visual_tokens

NUMBERS = (0.8, 0.25, 0.5, 7, 14)


def features() -> Tensor:
    return torch.randn((8, 18, 12), generator=torch.Generator().manual_seed(0))


def attention(heads: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn((2, heads, 3, 16), generator=generator)
    return query, torch.randn((2, 1, 30, 16), generator=generator)


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_opcheck_merge(impl: str) -> None:
    torch.library.opcheck(
        torch.ops.prunevid.merge_to_budget, (features()[:5], [3, 2], [30, 17], *NUMBERS, impl)
    )


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("is_masked", [False, True], ids=["all-keys", "masked-causal"])
def test_opcheck_score(impl: str, is_masked: bool) -> None:
    query, key = attention()
    mask = (27, torch.arange(30).expand(2, 30) > 2) if is_masked else (None, None)
    op = torch.ops.prunevid.score_visual_tokens
    torch.library.opcheck(op, (query, key, 4, 25, 0.25, *mask, impl))


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["one-index", "index-per-sample"])
def test_opcheck_compact(impl: str, per_sample: bool) -> None:
    _, key = attention()
    index = torch.tensor([[1, 4, 9], [0, 2, 29]])
    args = ([key, key[:, :1].half()], index if per_sample else index[0], 2, impl)
    torch.library.opcheck(torch.ops.prunevid.compact, args)


def pruned(x: Tensor, query: Tensor, key: Tensor, index: Tensor) -> tuple[Tensor, ...]:
    """The public functions as a model would call them."""
    video = merge_video(x, PruneVidConfig(budget=40))
    scores = score_visual_tokens(query, key, slice(3, 25), causal_offset=27)
    kept = compact([key, query], index, dim=0)
    return video.tokens, video.layout.source_to_merged, scores, *kept


def test_compiles_without_a_graph_break() -> None:
    args = (features(), *attention(), torch.tensor([1, 0]))
    compiled = torch.compile(pruned, fullgraph=True, backend="aot_eager")(*args)
    for found, expected in zip(compiled, pruned(*args), strict=True):
        assert torch.equal(found, expected)


def test_exports() -> None:
    class Pruned(torch.nn.Module):
        def forward(
            self, x: Tensor, query: Tensor, key: Tensor, index: Tensor
        ) -> tuple[Tensor, ...]:
            return pruned(x, query, key, index)

    args = (features(), *attention(), torch.tensor([1, 0]))
    exported = torch.export.export(Pruned(), args)
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    for name in ("merge_to_budget", "score_visual_tokens", "compact"):
        assert f"prunevid.{name}.default" in called
    for found, expected in zip(exported.module()(*args), pruned(*args), strict=True):
        assert torch.equal(found, expected)


def test_an_export_leaves_the_number_of_frames_open() -> None:
    """With a number of tokens; of a share torch cannot show that it is no more than there are."""

    class Merged(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return merge_video(x, PruneVidConfig(budget=10)).tokens

    frames = torch.export.Dim("frames", min=2, max=64)
    exported = torch.export.export(Merged(), (features(),), dynamic_shapes={"x": {0: frames}})
    for count in (3, 20):
        x = torch.randn(count, *features().shape[1:])
        assert torch.equal(exported.module()(x), Merged()(x))


def test_fake_tensors_get_the_shapes_without_running() -> None:
    with torch.device("meta"):
        x = torch.empty((8, 18, 12), dtype=torch.bfloat16)
    tokens, source, anchor, count, structure = torch.ops.prunevid.merge_to_budget(
        x, [5, 3], [30, 17], *NUMBERS
    )
    assert tokens.shape == (47, 12) and tokens.dtype == torch.bfloat16
    assert source.shape == (8, 18) and anchor.shape == count.shape == (47,)
    assert structure.shape == (28,) and structure.dtype == torch.int32


# ------------------------------------------------------------------------------------------------
# The ops called by name check what the public functions check, and their fakes agree
# ------------------------------------------------------------------------------------------------

X = features()
MERGE: dict[str, Any] = dict(
    features=X,
    frames=[5, 3],
    budgets=[30, 17],
    tau=0.8,
    segment_ratio=0.25,
    cluster_ratio=0.5,
    num_neighbors=7,
    min_cluster_tokens=14,
)
Q, K = attention()
SCORE: dict[str, Any] = dict(query=Q, key=K, start=4, stop=25, scale=0.25)
COMPACT: dict[str, Any] = dict(tensors=[K], index=torch.tensor([1, 4]), dim=2)

WRONG = [
    pytest.param("merge_to_budget", {"frames": [5, 4]}, "frames must sum to the 8", id="frames"),
    pytest.param(
        "merge_to_budget", {"frames": [9, -1]}, r"frames .*\[1, 8\]", id="negative-frames"
    ),
    pytest.param("merge_to_budget", {"frames": []}, "frames must sum", id="no-frames"),
    pytest.param(
        "merge_to_budget", {"budgets": [91, 17]}, "at most the 90 tokens of video 0", id="b"
    ),
    pytest.param("merge_to_budget", {"budgets": [30, 0]}, "budgets .*got 0", id="budget-0"),
    pytest.param("merge_to_budget", {"budgets": [30]}, "budgets must have 2 entries", id="budgets"),
    pytest.param("merge_to_budget", {"tau": float("nan")}, r"tau must be in \(0, 1\]", id="tau"),
    pytest.param("merge_to_budget", {"segment_ratio": 2.0}, "segment_ratio must", id="segment"),
    pytest.param("merge_to_budget", {"cluster_ratio": 0.0}, "cluster_ratio must", id="cluster"),
    pytest.param("merge_to_budget", {"num_neighbors": 0}, "num_neighbors must", id="neighbors"),
    pytest.param("merge_to_budget", {"min_cluster_tokens": -1}, "min_cluster_tokens", id="min"),
    pytest.param("merge_to_budget", {"features": X[0]}, r"features .*\[18, 12\]", id="features"),
    pytest.param("merge_to_budget", {"features": X.double()}, "features .*float64", id="float64"),
    pytest.param("score_visual_tokens", {"stop": 31}, "got keys 4 to 31", id="stop"),
    pytest.param("score_visual_tokens", {"start": -1}, "got keys -1 to 25", id="start"),
    pytest.param("score_visual_tokens", {"start": 25}, "got keys 25 to 25", id="no-key"),
    pytest.param(
        "score_visual_tokens", {"scale": float("nan")}, "scale must be finite", id="scale"
    ),
    pytest.param("score_visual_tokens", {"key": K[:1]}, "batch and head dim", id="batch"),
    pytest.param("score_visual_tokens", {"causal_offset": -1}, "causal_offset", id="offset"),
    pytest.param(
        "score_visual_tokens",
        {"key_mask": torch.ones(2, 9).bool()},
        "key_mask must have",
        id="mask",
    ),
    pytest.param("compact", {"tensors": []}, "at least one tensor", id="no-tensor"),
    pytest.param("compact", {"dim": 4}, "dim must be a dimension", id="dim"),
    pytest.param("compact", {"index": torch.ones(3, 2).long()}, "3 entries of dim", id="index"),
    pytest.param("compact", {"index": torch.ones(2)}, "index must be an int64", id="float-index"),
]


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize(("op", "changed", "message"), WRONG)
def test_ops_refuse_wrong_arguments(
    op: str, changed: dict[str, Any], message: str, impl: str
) -> None:
    right = {"merge_to_budget": MERGE, "score_visual_tokens": SCORE, "compact": COMPACT}[op]
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(torch.ops.prunevid, op)(**{**right, **changed}, impl=impl)


@pytest.mark.parametrize(("op", "changed", "message"), WRONG)
def test_fakes_refuse_what_the_ops_refuse(op: str, changed: dict[str, Any], message: str) -> None:
    right = {"merge_to_budget": MERGE, "score_visual_tokens": SCORE, "compact": COMPACT}[op]
    arguments = pytree.tree_map_only(Tensor, lambda x: x.to("meta"), {**right, **changed})
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(torch.ops.prunevid, op)(**arguments)


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("budgets", [[30, 17], [90, 17], [90, 54]], ids=str)
def test_the_op_gives_as_many_rows_as_its_fake_says(budgets: list[int], impl: str) -> None:
    arguments = {**MERGE, "budgets": budgets}
    fake = torch.ops.prunevid.merge_to_budget(**{**arguments, "features": X.to("meta")})
    real = torch.ops.prunevid.merge_to_budget(**arguments, impl=impl)
    for expected, found in zip(fake, real, strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.untyped_storage().data_ptr() != X.untyped_storage().data_ptr()
    structure = real[4].tolist()
    assert structure[-4:] == [*budgets, 5, 3]  # merged tokens, and no bad frame


def test_one_graph_serves_all_lengths() -> None:
    """Frames, budgets, keys and question rows are symbolic."""
    compiles = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(pruned, fullgraph=True, dynamic=True, backend=compiles)
    generator = torch.Generator().manual_seed(0)
    for frames, rows, keys in ((8, 3, 30), (11, 5, 41), (6, 7, 28)):
        x = torch.randn((frames, 18, 12), generator=generator)
        query = torch.randn((2, 4, rows, 16), generator=generator)
        key = torch.randn((2, 2, keys, 16), generator=generator)
        args = (x, query, key, torch.tensor([1, 0]))
        for found, expected in zip(compiled(*args), pruned(*args), strict=True):
            assert torch.equal(found, expected)
    assert compiles.frame_count == 1


def test_a_share_of_the_tokens_is_symbolic_too() -> None:
    def merged(x: Tensor) -> Tensor:
        return merge_video(x, PruneVidConfig(budget=0.29)).tokens

    compiles = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(merged, fullgraph=True, dynamic=True, backend=compiles)
    for frames in (8, 11, 50):
        x = torch.randn((frames, 18, 12), generator=torch.Generator().manual_seed(0))
        assert torch.equal(compiled(x), merged(x))
    assert compiles.frame_count == 1


def test_public_names_are_stable() -> None:
    for name in prunevid_kernels.__all__:
        assert hasattr(prunevid_kernels, name)
