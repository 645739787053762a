"""The custom ops: what opcheck asks of an op; torch.compile and torch.export trace them."""

import pytest
import torch
from torch import Tensor

import prunevid_kernels
from prunevid_kernels import PruneVidConfig, compact, merge_video, score_visual_tokens

NUMBERS = (0.8, 0.25, 0.5, 7, 14)


def features() -> Tensor:
    return torch.randn((8, 18, 12), generator=torch.Generator().manual_seed(0))


def attention(heads: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn((2, heads, 3, 16), generator=generator)
    return query, torch.randn((2, 2, 30, 16), generator=generator)


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_opcheck_merge(impl: str) -> None:
    torch.library.opcheck(
        torch.ops.prunevid.merge_to_budget, (features(), [5, 3], [30, 17], *NUMBERS, impl)
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


def test_fake_tensors_get_the_shapes_without_running() -> None:
    with torch.device("meta"):
        x = torch.empty((8, 18, 12), dtype=torch.bfloat16)
    tokens, source, anchor, count, structure = torch.ops.prunevid.merge_to_budget(
        x, [5, 3], [30, 17], *NUMBERS
    )
    assert tokens.shape == (47, 12) and tokens.dtype == torch.bfloat16
    assert source.shape == (8, 18) and anchor.shape == count.shape == (47,)
    assert structure.shape == (28,) and structure.dtype == torch.int32


def test_public_names_are_stable() -> None:
    for name in prunevid_kernels.__all__:
        assert hasattr(prunevid_kernels, name)
