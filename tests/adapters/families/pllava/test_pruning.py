"""What pruning PLLaVA has of its own: two forms of a prompt, padded batches of beams."""

from __future__ import annotations

import pytest
from tiny_models import CONFIG, generate, left_pad
from tiny_pllava import IMAGE_ID, TOKENS, batch, prompt, random_model

from prunevid_kernels.adapters import prune
from prunevid_kernels.adapters.families.pllava.model import Pllava

PROMPTS = [prompt(2, 9, 1), prompt(6, 3, 2), prompt(0, 5, 3)]


@pytest.fixture
def model() -> Pllava:
    return random_model()


def test_a_single_placeholder_for_a_video_is_pruned_the_same(model):
    inputs = batch(PROMPTS, [1, 2, 3])
    starts = [ids.index(IMAGE_ID) for ids in PROMPTS]
    ids, mask = left_pad(
        [
            [*ids[: start + 1], *ids[start + TOKENS :]]
            for ids, start in zip(PROMPTS, starts, strict=True)
        ]
    )
    with prune(model, CONFIG):
        expected = generate(model, inputs).sequences[:, -9:]
        brief = generate(model, inputs | {"input_ids": ids, "attention_mask": mask})
        raw = model(ids, inputs["pixel_values"], mask).logits[:, -1]
    assert brief.sequences[:, -9:].equal(expected)
    assert raw.argmax(-1).equal(expected[:, 0])


def test_beams_of_a_padded_batch_are_those_of_each_prompt(model):
    with prune(model, CONFIG):
        together = generate(model, batch(PROMPTS, [1, 2, 3]), num_beams=3)
        for row, ids in enumerate(PROMPTS):
            alone = generate(model, batch([ids], [row + 1]), num_beams=3)
            assert together.sequences[row, -9:].equal(alone.sequences[0, -9:])
