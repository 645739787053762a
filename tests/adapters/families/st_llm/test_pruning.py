"""What pruning ST-LLM has of its own: 32 tokens a frame, the video in front with or without
placeholders, which can be generated too."""

from __future__ import annotations

import pytest
import torch
from families import ST_LLM
from slow_pruning import SlowDecoder, assert_same
from tiny_models import CONFIG, generate, text_tokens
from tiny_st_llm import QUERIES, question

from prunevid_kernels import merge_video
from prunevid_kernels.adapters import prune
from prunevid_kernels.adapters.families.st_llm.model import StLlm


@pytest.fixture
def model() -> StLlm:
    return ST_LLM.build()


def slow_for(model: StLlm) -> SlowDecoder:
    return ST_LLM.slow(model, SlowDecoder, CONFIG)


def test_small_groups_are_merged_over_time_and_never_clustered(model):
    """12 of a frame's 32 tokens stand still, which is too few to cluster; 20 move."""
    generator = torch.Generator().manual_seed(5)
    still = torch.randn(1, 12, 32, generator=generator).expand(6, -1, -1)
    moving = torch.randn(6, 20, 32, generator=generator)
    # The frames are alike as a whole, so that they are one segment.
    video = torch.cat((10 * still, moving), dim=1)
    layout = merge_video(video, CONFIG).layout
    assert layout.group_sizes[layout.group_is_static].tolist() == [12]
    assert layout.group_sizes[~layout.group_is_static].tolist() == [10] * 6
    text = [2, *text_tokens(6)]
    inputs = {"input_ids": torch.tensor([text]), "video_features": video[None]}
    with prune(model, CONFIG) as handle:
        result = generate(model, inputs)
    slow = slow_for(model)
    slow.feed_prompt([("video", video), ("text", text)])
    assert_same(result, 0, slow)
    assert handle.report.last.tokens_merged == 12 + 60


def test_prompts_without_placeholders_are_pruned_the_same(model):
    inputs = question(frames=4)
    with prune(model, CONFIG):
        expected = generate(model, inputs)
        ids = inputs["input_ids"][:, 4 * QUERIES :]
        bare = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        result = generate(model, bare)
        logits = model(**bare).logits
    assert result.sequences.equal(expected.sequences)
    torch.testing.assert_close(logits[:, -1], expected.logits[0], rtol=0, atol=1e-5)


def test_beams_and_returned_sequences_encode_a_video_once(model):
    inputs, calls = question(), []
    hook = model.video_encoder.register_forward_hook(lambda *args: calls.append(1))
    with prune(model, CONFIG) as handle:
        greedy = generate(model, inputs)
        sampled = generate(model, inputs, do_sample=True, top_k=1, num_return_sequences=3)
        assert len(handle.report.last.videos) == 3
        generate(model, inputs, num_beams=3)
    hook.remove()
    assert len(calls) == 3
    assert all(row.equal(greedy.sequences[0]) for row in sampled.sequences)


def test_generated_placeholder_ids_are_tokens_like_others(model):
    """Id 0 can be generated; it stands for a visual token in a prompt alone."""
    inputs = ST_LLM.question()
    with prune(model, CONFIG) as handle:
        outputs = model(**inputs)
        zero = torch.zeros(1, 1, dtype=torch.int64)
        again = model(input_ids=zero, past_key_values=outputs.past_key_values)
    assert len(handle.report.calls) == 1
    slow = slow_for(model)
    slow.feed_prompt(*ST_LLM.prompts(model, inputs))
    slow.feed_tokens([0])
    assert (again.logits[0, -1].double() - slow.logits()).abs().max() <= 1e-5
