"""What the vLLM plugin computes without vLLM: shares and budgets."""

from __future__ import annotations

import pytest
import torch

from prunevid_kernels import budget_tokens
from prunevid_kernels.adapters.vllm.merging import merge_within
from prunevid_kernels.adapters.vllm.settings import (
    ENGINE_SWITCH,
    cache_salt,
    request_retain,
    server_retain,
)

pytestmark = pytest.mark.one_version


@pytest.mark.parametrize(
    ("prunevid", "rate", "expected"),
    [
        pytest.param({"retain": 0.2}, None, 0.2, id="override"),
        pytest.param({"retain": 1}, None, 1.0, id="one-is-everything-not-one-token"),
        pytest.param(None, 0.8, 0.2, id="rate-in-decimals"),
        pytest.param(None, 0.0, 1.0, id="rate-zero"),
        pytest.param({"retain": 0.2}, 0.8, 0.2, id="both-agree"),
        pytest.param({"retain": 0.2}, ENGINE_SWITCH, 0.2, id="engine-switched-on"),
    ],
)
def test_the_servers_share(prunevid: object, rate: float | None, expected: float) -> None:
    assert server_retain(prunevid, rate) == expected


@pytest.mark.parametrize(
    ("prunevid", "rate", "method", "message"),
    [
        pytest.param(None, None, "evs", "got neither", id="nothing"),
        pytest.param(None, ENGINE_SWITCH, "evs", "got neither", id="switch-is-no-share"),
        pytest.param({"retain": 0.5}, 0.8, "evs", "retain.*=0.5 contradicts", id="contradiction"),
        pytest.param({"retain": 0}, None, "evs", r'\["retain"\] must be a share', id="zero"),
        pytest.param({"retain": 20}, None, "evs", r"in \(0, 1\], got 20", id="token-count"),
        pytest.param({"retain": "0.2"}, None, "evs", "got '0.2'", id="text"),
        pytest.param({"retain": True}, None, "evs", "got True", id="bool"),
        pytest.param({"retain": float("nan")}, None, "evs", "got nan", id="nan"),
        pytest.param({}, None, "evs", "nothing else, got {}", id="empty"),
        pytest.param({"retain": 0.2, "tau": 1}, None, "evs", "nothing else", id="other-key"),
        pytest.param(0.2, None, "evs", "nothing else, got 0.2", id="no-mapping"),
        pytest.param(None, 0.5, "vidcom2", "--video-pruning-method must be left out", id="method"),
    ],
)
def test_settings_that_cannot_be_name_themselves(
    prunevid: object, rate: float | None, method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        server_retain(prunevid, rate, method)


def test_a_requests_share_is_taken_out_of_its_arguments() -> None:
    assert request_retain({"prunevid_retain": 0.5, "fps": 2}) == (0.5, {"fps": 2})
    assert request_retain({"fps": 2}) == (None, {"fps": 2})
    with pytest.raises(ValueError, match=r'mm_processor_kwargs\["prunevid_retain"\] must be'):
        request_retain({"prunevid_retain": None})


def test_every_share_has_a_salt_of_its_own() -> None:
    assert len({cache_salt(share) for share in (0.1, 0.2, 0.2000001, 1.0)}) == 4


@pytest.mark.parametrize("frames", [1, 2, 3, 7], ids="T={}".format)
@pytest.mark.parametrize("share", [1e-9, 0.05, 0.2, 0.34, 0.999, 1.0], ids="retain={}".format)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_exactly_the_budgeted_tokens_in_the_models_dtype(
    frames: int, share: float, dtype: torch.dtype
) -> None:
    features = torch.randn(frames, 13, 16, generator=torch.Generator().manual_seed(frames))
    tokens = budget_tokens(frames, 13, share)
    merged = merge_within(features.to(dtype), tokens)
    assert merged.tokens.shape == (tokens, 16)
    assert merged.tokens.dtype == dtype
    if share == 1.0:
        assert torch.equal(merged.tokens, features.to(dtype).flatten(0, 1))
