"""How far a batch is from its prompts one by one, and a merged prompt from one made by hand.

In float32 an unpruned model's own logits move by some 1e-6 of their size when a prompt is padded,
because attention adds up in another order. So the bound of 1e-6 is held in float64, for every step
of the answer, where nothing but an error reaches it. Recurrent layers compute in float32 whatever
they are given, so that models with them have ten times as much.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from families import LLAVA_NEXT_VIDEO, each
from families_apart import INTERNVL, SMOLVLM, VIDEO_LLAMA_3
from in_float64 import doubled, of_doubles, take_doubles
from slow_grids import SlowGrids
from tiny_grids import PLANES, Clip, Question, build, inputs_of
from tiny_models import CONFIG, generate, logits_of, text_tokens
from torch import Tensor

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune

STEPS, BOUND, BOUND_OF_RECURRENT = 3, 1e-6, 1e-5
MERGE = PruneVidConfig(select=False, min_cluster_tokens=2)
BOTH_STEPS = PruneVidConfig(layer=PLANES, min_cluster_tokens=2)
SELECTING = {"qwen2_5_vl": False, "qwen2_vl": True, "qwen3_vl": False, "qwen3_vl_moe": True}
RECURRENT = {"qwen3_5": False, "qwen3_5_moe": True}


@cache
def grid_model(kind: str) -> Any:
    return doubled(build(kind))


def three_prompts(kind: str) -> list[Question]:
    """Of different length and grids; an image and two videos; text alone."""
    image = Clip(1, 2, 2, 2, is_image=True)
    parts = [text_tokens(2, 3), image, text_tokens(2, 4), Clip(6, 1, 4, 3), text_tokens(5, 5)]
    return [
        Question(kind, [text_tokens(3), Clip(4, 2, 3, 1), text_tokens(6, 2)]),
        Question(kind, [*parts, Clip(3, 3, 2, 4), text_tokens(4, 6)]),
        Question(kind, [text_tokens(8, 7)]),
    ]


def kinds(*options: Any, of: dict[str, bool]) -> list[Any]:
    """A case for each kind; those that are like another one are for ``--full``."""
    return [
        pytest.param(kind, *options, id=kind, marks=[pytest.mark.full] * is_like_another)
        for kind, is_like_another in of.items()
    ]


def assert_near(found: Tensor, expected: Tensor, kind: str = "") -> None:
    """Logits [steps, vocabulary], step by step."""
    difference = (found.double() - expected.double()).norm(dim=-1)
    bound = BOUND_OF_RECURRENT if kind in RECURRENT else BOUND
    assert (difference <= bound * expected.double().norm(dim=-1)).all(), difference


@pytest.mark.parametrize(
    ("kind", "config"),
    [*kinds(BOTH_STEPS, of=SELECTING), *kinds(MERGE, of=RECURRENT)],
)
def test_a_batch_of_grids_is_one_by_one(monkeypatch, kind, config):
    take_doubles(monkeypatch)
    model, questions = grid_model(kind), three_prompts(kind)
    with prune(model, config) as handle:
        together = generate(model, of_doubles(inputs_of(*questions)), STEPS)
        assert len(handle.report.last.videos) == 3 and handle.report.last.has_pruned
        for row, question in enumerate(questions):
            alone = generate(model, of_doubles(inputs_of(question)), STEPS)
            assert together.sequences[row, -STEPS:].equal(alone.sequences[0, -STEPS:])
            assert_near(logits_of(together)[:, row], logits_of(alone)[:, 0], kind)


@each(LLAVA_NEXT_VIDEO, INTERNVL, SMOLVLM, VIDEO_LLAMA_3)
def test_a_batch_of_frames_is_one_by_one(monkeypatch, family):
    take_doubles(monkeypatch)
    model, inputs = doubled(family.build()), of_doubles(family.batch())
    with prune(model, CONFIG) as handle:
        with family.telling(handle, inputs):
            together = logits_of(generate(model, inputs, STEPS))
        for row, own in enumerate(of_doubles(own) for own in family.alone()):
            with family.telling(handle, own):
                alone = logits_of(generate(model, own, STEPS))[:, 0]
            assert together[:, row].argmax(-1).equal(alone.argmax(-1))
            assert_near(together[:, row], alone)


@pytest.mark.parametrize("kind", kinds(of=SELECTING | RECURRENT))
def test_a_merged_prompt_is_one_made_by_hand_at_every_step(monkeypatch, kind):
    """The text model alone runs on what slow code makes of the prompt, anew at each step."""
    take_doubles(monkeypatch)
    model = grid_model(kind)
    question = Question(kind, [text_tokens(4), Clip(8, 3, 4), text_tokens(7, 1)])
    with prune(model, MERGE) as handle:
        result = generate(model, of_doubles(inputs_of(question)), STEPS)
    slow = SlowGrids(model, question, MERGE)
    assert handle.report.last.tokens_merged == slow.videos[0].layout.num_merged < 96
    for logits in result.logits:
        expected = by_hand(model, slow)
        assert_near(logits, expected[None], kind)
        slow.feed(int(expected.argmax()))


def by_hand(model: Any, slow: SlowGrids) -> Tensor:
    """[vocabulary] what follows the rows."""
    planes = {}
    visual = [row.planes for row in slow.rows if row.planes is not None and len(row.planes)]
    if visual:
        is_visual = torch.tensor([[row.planes is not None for row in slow.rows]])
        of_layers = list(torch.stack(visual, dim=1))
        planes = {"deepstack_visual_embeds": of_layers, "visual_pos_masks": is_visual}
    hidden = model.model.language_model(
        inputs_embeds=torch.stack([row.embed for row in slow.rows])[None],
        position_ids=torch.stack([row.position for row in slow.rows], dim=1)[:, None],
        use_cache=False,
        **planes,
    ).last_hidden_state
    return model.lm_head(hidden[0, -1])
