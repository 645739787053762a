"""VideoLLaMA3: its inputs, and its own token compression, which has to be off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families_apart import VIDEO_LLAMA_3 as TINY
from tiny_models import CONFIG, clip, text_tokens

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import load_video_model, prune
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.shape import DecoderShape
from prunevid_kernels.adapters.video.patches import flatten_patches
from prunevid_kernels.benchmarks.embedded.model import load_embedded_model

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)


def test_prompt_patches_and_a_pruned_answer(folders):
    """A time before each frame, a frame of 50 x 70 pixels grown to 128 tokens of the published
    size: here to 272 x 376 pixels, in blocks of 8."""
    model = load_video_model(folders["video_llama_3"])
    rows, columns = model.grid_of(FRAMES)
    assert rows * columns * 64 >= 128 * 28 * 28 and abs(rows / columns - 50 / 70) < 0.02
    inputs = model.encode(FRAMES, "What is blue?", answer_prefix="A", seconds=[0.0, 1.26, 64.0])
    tokens = "<video>" * (rows * columns)
    assert model.tokenizer.decode(inputs["input_ids"][0]) == (
        f"<|im_start|>user\nTime 0.0s:{tokens},Time 1.3s:{tokens},Time 64.0s:{tokens}"
        "\nWhat is blue?<|im_end|>\n<|im_start|>assistant\nA"
    )
    assert inputs["video_grid_thw"].tolist() == [[3, 2 * rows, 2 * columns]]
    small = np.ascontiguousarray(FRAMES[:, :8, :8])
    with prune(model.model, PruneVidConfig(merge=False, layer=1)) as handle:
        answer = model.generate(model.encode(small, "What?"), max_new_tokens=2)
    assert isinstance(answer, str) and handle.report.last.tokens_before > 0


def test_its_patches_are_in_the_order_that_the_tests_take():
    frames = clip(2)
    patches, grid = flatten_patches(frames, patch_px=4, merge=2, group=1)
    assert patches.equal(TINY.stacked([frames])) and grid == (2, 8, 8)


def test_its_own_compression_has_to_be_off():
    model, inputs = TINY.build(), TINY.question()
    mask = torch.ones(96, dtype=torch.bool)
    with prune(model, CONFIG) as handle:
        model(**inputs, video_compression_mask=mask, use_cache=True)
    assert handle.report.last.tokens_before == 96
    mask[3:8] = False
    with (
        pytest.raises(ValueError, match="drops 5 of 96 video tokens .*use_token_compression=False"),
        prune(model, CONFIG),
    ):
        model(**inputs, video_compression_mask=mask, use_cache=True)


def test_frames_of_unequal_length_are_refused():
    video = TINY.video(6)
    video.insert(9, TINY.video_id)
    inputs = TINY.inputs([[*text_tokens(3), *video[:-2], *text_tokens(4)]], [clip(6)])
    with pytest.raises(ValueError, match="in runs of equal length"), prune(TINY.build(), CONFIG):
        TINY.build()(**inputs)


def test_random_model():
    words = load_embedded_model().processor
    family = FAMILIES["video_llama_3"]
    decoder = DecoderShape(32, 64, 2, 4, 2, max(300, len(words.tokenizer)))
    model, processor = family.random_model(decoder, words, is_reduced=True)
    assert family.shape(model.config).decoder == decoder
    logits = model.eval()(**processor(FRAMES, "What is blue?")).logits
    assert logits.shape[-1] == decoder.vocab_size


@pytest.mark.parametrize("frames", [1, 12])
def test_runs_that_contradict_the_grid_are_refused(frames):
    """The model itself takes them: nothing in it looks at where the frames of a prompt are. Where
    ``generate`` encodes videos first, their grid is gone by then: the prompt's word is taken."""
    model, inputs = TINY.build(), TINY.question()
    ids = inputs["input_ids"][0].tolist()
    run = [TINY.video_id] * (96 // frames)
    prompt = ids[:9] + [token for _ in range(frames) for token in (*run, 9)] + ids[-7:]
    inputs["input_ids"] = torch.tensor([prompt])
    inputs["attention_mask"] = torch.ones(1, len(prompt), dtype=torch.long)
    with (
        pytest.raises(ValueError, match=rf"videos of \[{frames}\] frames, the videos have \[6\]"),
        prune(model, CONFIG),
    ):
        model(**inputs, use_cache=True)
