"""One run of the vision side for several methods: nothing changes but how often it runs."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext

import pytest
import tiny_grids
import torch
from families import FAMILIES, LLAVA_NEXT_VIDEO
from families_apart import INTERNVL
from tiny_models import text_tokens

from prunevid_kernels.adapters import PromptVisuals, VideoSpan, apply_method, share_vision
from prunevid_kernels.adapters.families import adapter_of

METHODS = ("full", "evs", "holitom", "visionzip")
EACH = [pytest.param(family, id=family.name) for family in (*FAMILIES, INTERNVL)]


def ask(model, inputs, method, telling=lambda handle, inputs: nullcontext()):
    """What generate gives under a method, with the logits of each step."""
    with apply_method(model, method, {}) as handle, telling(handle, inputs):
        given = model.generate(
            **inputs,
            max_new_tokens=2,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(given.logits), handle.report.last.tokens_kept


@contextmanager
def counted(module):
    """How often a module runs."""
    runs = []
    hook = module.register_forward_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        hook.remove()


@pytest.mark.parametrize("family", EACH)
def test_each_method_decides_as_it_does_alone_and_the_tower_runs_once(family):
    model, inputs = family.build(), family.question()
    alone = [ask(model, inputs, method, family.telling) for method in METHODS]
    with counted(adapter_of(model).vision_attention(model).encoder) as runs:
        with share_vision(model) as shared:
            for method, (logits, kept) in zip(METHODS, alone, strict=True):
                found, found_kept = ask(model, inputs, method, family.telling)
                assert torch.equal(found, logits) and found_kept == kept
            assert len(runs) == 1
            assert shared.saved_s > 0
        ask(model, inputs, "evs", family.telling)
        assert len(runs) == 2, "outside, the model is as it was"


def test_another_video_is_encoded_anew():
    """By its pixels, not by its tensor: the same one may hold the next video."""
    family = FAMILIES[0]
    model, inputs = family.build(), family.question()
    other = {**inputs, "pixel_values_videos": inputs["pixel_values_videos"].flip(1)}
    alone = ask(model, other, "holitom")
    with (
        counted(adapter_of(model).vision_attention(model).encoder) as runs,
        share_vision(model),
    ):
        first = ask(model, inputs, "holitom")
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].clone()
        assert torch.equal(ask(model, inputs, "holitom")[0], first[0]) and len(runs) == 1
        inputs["pixel_values_videos"].copy_(other["pixel_values_videos"])
        assert torch.equal(ask(model, inputs, "holitom")[0], alone[0]) and len(runs) == 2


def test_planes_of_a_grid_model_come_from_memory_as_well():
    model = tiny_grids.build("qwen3_vl")
    parts = [text_tokens(4), tiny_grids.Clip(6, 2, 3), text_tokens(5, 1)]
    inputs = tiny_grids.inputs_of(tiny_grids.Question("qwen3_vl", parts))
    alone = [ask(model, inputs, method) for method in ("full", "evs")]
    with counted(model.model.visual) as runs, share_vision(model) as shared:
        found = [ask(model, inputs, method) for method in ("full", "evs", "evs")]
        with pytest.raises(ValueError, match="no attention on its vision side"):
            ask(model, inputs, "holitom")
    assert len(runs) == 1 and shared.saved_s > 0
    for (logits, kept), (expected, expected_kept) in zip(found, [*alone, alone[1]], strict=True):
        assert torch.equal(logits, expected) and kept == expected_kept


def test_the_clock_counts_what_is_spared():
    """The tower takes one tick alone and none from memory; remembering takes a tick itself."""
    family = FAMILIES[0]
    model, inputs = family.build(), family.question()
    ticks = iter(range(1000))
    with share_vision(model, lambda: 10.0 * next(ticks)) as shared:
        ask(model, inputs, "evs")
        assert shared.saved_s == 0.0
        ask(model, inputs, "evs")
        assert shared.saved_s == 10.0 - 10.0  # spared the run, took a look
        ask(model, inputs, "holitom")
        before = shared.saved_s  # the first to ask what the tower's attention shows pays for it
        ask(model, inputs, "holitom")
        assert shared.saved_s - before == 10.0


def test_another_thread_has_a_tower_of_its_own():
    family = FAMILIES[0]
    model, inputs = family.build(), family.question()
    expected, _ = ask(model, inputs, "visionzip")
    found = []
    with counted(adapter_of(model).vision_attention(model).encoder) as runs, share_vision(model):
        ask(model, inputs, "full")
        thread = threading.Thread(target=lambda: found.append(ask(model, inputs, "visionzip")[0]))
        thread.start()
        thread.join()
        assert len(runs) == 2
    assert torch.equal(found[0], expected)


def test_what_was_seen_before_is_not_taken_for_encoded_videos():
    """Features that no pixels came with have no attention, whatever the tower saw last."""
    family = FAMILIES[0]
    model, inputs = family.build(), family.question()
    encoder = adapter_of(model).vision_attention(model).encoder
    with share_vision(model) as shared:
        ask(model, inputs, "holitom")
        assert shared.last_seen() is None
        with pytest.raises(RuntimeError, match="entered once at a time"), shared:
            pass
    with counted(encoder) as runs, shared:
        ask(model, inputs, "evs")
    assert len(runs) == 1, "nothing is remembered beyond the block"
    refused = pytest.raises(RuntimeError, match="pruned already")
    with refused, apply_method(model, "evs", {}), share_vision(model):
        pass


def test_a_tensor_that_is_filled_with_the_next_video_is_encoded_anew():
    """What was encoded is compared with the pixels as they were, not with their tensor."""
    family = FAMILIES[0]
    model, inputs = family.build(), family.question()
    pixels = inputs["pixel_values_videos"] = inputs["pixel_values_videos"].clone()
    alone = ask(model, {**inputs, "pixel_values_videos": pixels.flip(1)}, "holitom")
    with share_vision(model):
        ask(model, inputs, "holitom")
        pixels.copy_(pixels.flip(1))
        assert torch.equal(ask(model, inputs, "holitom")[0], alone[0])


def test_a_method_does_not_look_at_pixels_of_the_method_before():
    """Encoded videos bring no attention; a method that did not ask for it has left some behind."""
    family = LLAVA_NEXT_VIDEO
    model, inputs = family.build(), family.question()
    embeds = model.get_input_embeddings()(torch.tensor([text_tokens(110)]))
    with share_vision(model):
        ask(model, inputs, "evs")
        with (
            pytest.raises(ValueError, match="without a run of the tower; give pixels"),
            apply_method(model, "holitom", {}) as handle,
            handle.videos([PromptVisuals((VideoSpan(4, 6, 16),))]),
        ):
            model.generate(inputs_embeds=embeds, max_new_tokens=1)


def test_several_videos_are_remembered_and_the_one_unasked_for_longest_goes():
    family = FAMILIES[0]
    model = family.build()
    first, second, third = (
        family.question() | {"pixel_values_videos": torch.full_like(pixels, value)}
        for value in (0.1, 0.2, 0.3)
        for pixels in (family.question()["pixel_values_videos"],)
    )
    alone, _ = ask(model, first, "evs")
    with counted(adapter_of(model).vision_attention(model).encoder) as runs:
        with share_vision(model, videos=2):
            for video, expected in ((first, 1), (second, 2), (first, 2), (third, 3), (first, 3)):
                logits, _ = ask(model, video, "evs")
                assert len(runs) == expected
            assert torch.equal(logits, alone)
            ask(model, second, "evs")
            assert len(runs) == 4


def test_at_least_one_video_is_remembered():
    with pytest.raises(ValueError, match="videos must be an integer >= 1, got 0"):
        share_vision(FAMILIES[0].build(), videos=0)
