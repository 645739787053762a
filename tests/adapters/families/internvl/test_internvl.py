"""InternVL: its inputs, and how a caller says which of its images are a video."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families_apart import INTERNVL as TINY
from PIL import Image
from tiny_models import CONFIG, IMAGE_ID, TOKENS_PER_FRAME, clip, generate, logits_of, text_tokens

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import (
    ModelError,
    PromptVisuals,
    VideoSpan,
    load_video_model,
    prune,
)
from prunevid_kernels.adapters.families import FAMILIES, SIZES
from prunevid_kernels.adapters.families.shape import DecoderShape

IMAGE = [8, *[IMAGE_ID] * TOKENS_PER_FRAME, 9]
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)


def test_prompt_and_pixels(folders):
    """The text of a frame, and the frame resized to one tile whatever its proportions."""
    model = load_video_model(folders["internvl"])
    inputs = model.encode(FRAMES, "What is blue?", answer_prefix="A")
    frames = "\n".join(f"Frame{i}: <img>{'<IMG_CONTEXT>' * 16}</img>" for i in (1, 2, 3))
    assert model.tokenizer.decode(inputs["input_ids"][0]) == (
        f"<|im_start|>user\n{frames}\nWhat is blue?<|im_end|>\n<|im_start|>assistant\nA"
    )
    expected = Image.fromarray(FRAMES[1]).resize((32, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(expected).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(inputs["pixel_values"][1], expected, atol=1e-6)


def test_without_a_word_a_video_is_not_told_from_images():
    model, inputs = TINY.build(), TINY.question()
    with (
        pytest.raises(
            ValueError, match=r"not tell a video from images: .*handle.videos\(\[...\]\)"
        ),
        prune(model, CONFIG),
    ):
        generate(model, inputs, 1)


def test_an_image_beside_a_video_stays_whole_and_asks_nothing():
    model = TINY.build()
    ids = [*text_tokens(2), *IMAGE, *text_tokens(3, 1), *TINY.video(4), *IMAGE, *text_tokens(5, 2)]
    starts = TINY.spans(ids)
    assert [len(group) for group in starts] == [1, 4, 1]
    inputs = TINY.inputs([ids], [clip(1), clip(4, 1), clip(1, 2)])
    said = [PromptVisuals((VideoSpan.apart(starts[1], TOKENS_PER_FRAME),))]
    with prune(model, CONFIG) as handle, handle.videos(said):
        generate(model, inputs, 1)
    call = handle.report.last
    assert call.image_tokens == (32,) and call.tokens_before == 64
    assert call.other_tokens == (len(ids) - 64,)


def test_images_alone_pass_through():
    model, inputs = TINY.build(), TINY.inputs([[9, *IMAGE, *text_tokens(5)]], [clip(1)])
    expected = generate(model, inputs, 2)
    with prune(model, CONFIG) as handle:
        with handle.videos([PromptVisuals()]):
            result = generate(model, inputs, 2)
        with TINY.telling(handle, TINY.question()):
            generate(model, TINY.question(), 1)
    assert logits_of(result).equal(logits_of(expected))
    assert [call.kind for call in handle.report.calls] == ["image-only", "pruned"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        pytest.param([VideoSpan.apart([9, 29], 16)], "not where its visual tokens are", id="where"),
        pytest.param([VideoSpan(9, 2, 4)], "must not share a run", id="part-of-a-frame"),
    ],
)
def test_a_video_that_is_not_there(said, message):
    model, inputs = TINY.build(), TINY.question()
    with (
        pytest.raises(ValueError, match=message),
        prune(model, CONFIG) as handle,
        handle.videos([PromptVisuals(tuple(said))]),
    ):
        generate(model, inputs, 1)


def test_video_model_says_it_of_its_own_prompts(folders):
    """Unpruned, pruned, with beams, and a batch in which a prompt is repeated."""
    model = load_video_model(folders["internvl"])
    inputs = model.encode(FRAMES, "What is blue?")
    plain = model.generate(inputs, max_new_tokens=3)
    twice = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in inputs.items()}
    with prune(model.model, PruneVidConfig(merge=False, layer=1, keep_ratio=0.99)) as handle:
        assert isinstance(model.generate(inputs, max_new_tokens=3), str)
        model.generate(inputs, max_new_tokens=3, num_beams=2)
        with model.telling(twice):
            model.model(**twice, use_cache=True)
    assert [call.tokens_before for call in handle.report.calls] == [48, 96, 96]
    assert model.generate(inputs, max_new_tokens=3) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"image_token_id": 10_000}, "image_token_id must be a token's id", id="far"),
        pytest.param({"image_token_id": 40}, "which is no added token", id="a-word"),
    ],
)
def test_a_placeholder_that_the_tokenizer_does_not_have(folders, tmp_path, change, message):
    folder = Path(shutil.copytree(folders["internvl"], tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        load_video_model(folder)


@pytest.mark.parametrize("head_size", [None, 16])
def test_random_model(folders, head_size):
    words = load_video_model(folders["llava_onevision"]).processor
    decoder, family = DecoderShape(32, 64, 2, 4, 2, 300, head_size), FAMILIES["internvl"]
    model, processor = family.random_model(decoder, words, is_reduced=True)
    assert family.shape(model.config).decoder == decoder
    assert model.eval()(**processor(FRAMES, "What is blue?")).logits.shape[-1] == 300


def test_random_copies_of_3_5_have_the_decoder_of_3_5(folders):
    """Qwen3, where 3 has Qwen2.5; on the meta device, where no weight is drawn."""
    words = load_video_model(folders["llava_onevision"]).processor
    for name, size in SIZES.items():
        if name in ("internvl3-8b", "internvl3.5-8b", "internvl3.5-1b"):
            decoder = replace(size.shape.decoder, num_layers=1)
            with torch.device("meta"):
                model, _ = FAMILIES["internvl"].random_model(decoder, words, is_reduced=True)
            kind = model.get_decoder().config.model_type
            assert kind == ("qwen3" if "3.5" in name else "qwen2")
