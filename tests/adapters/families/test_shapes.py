"""Sizes that transformers' own configs have by default."""

from __future__ import annotations

import pytest
import transformers

from prunevid_kernels.adapters.families import FAMILIES, SIZES


@pytest.mark.parametrize(
    ("size", "config"),
    [
        pytest.param("qwen3.5-9b", "Qwen3_5Config", id="dense"),
        pytest.param("qwen3.5-35b-a3b", "Qwen3_5MoeConfig", id="experts"),
    ],
)
def test_published_size_is_the_default_config(size, config):
    """With experts, the one that every token runs through counts as well."""
    shape = SIZES[size].shape
    assert FAMILIES[shape.family].shape(getattr(transformers, config)()) == shape
