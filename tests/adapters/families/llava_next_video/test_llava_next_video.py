"""LLaVA-NeXT-Video: its inputs, and where its videos stand in a prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import LLAVA_NEXT_VIDEO as TINY
from PIL import Image
from tiny_models import CONFIG, IMAGE_ID, clip, generate, text_tokens

from prunevid_kernels.adapters import load_video_model, prune
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.shape import DecoderShape


def test_prompt_and_pixels(folders):
    """The short edge at the tower's size, the middle of the long one, a token for 2 x 2 patches."""
    model = load_video_model(folders["llava_next_video"])
    frames = np.zeros((3, 64, 96, 3), np.uint8)
    frames[:, :, 40:56] = 255
    inputs = model.encode(frames, "What is blue?", system="Look.", answer_prefix="A")
    text = model.tokenizer.decode(inputs["input_ids"][0])
    assert text == f"Look. USER: {'<video>' * 48}\nWhat is blue? ASSISTANT:A"
    (pixels,) = inputs["pixel_values_videos"]
    assert pixels.shape == (3, 3, 32, 32)
    expected = Image.fromarray(frames[0]).resize((48, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(expected.crop((8, 0, 40, 32))).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(pixels[0], expected, atol=1e-6)


def test_videos_without_text_between_them_are_told_apart():
    model, video = TINY.build(), TINY.video(4)
    inputs = TINY.inputs(
        [text_tokens(3) + video + video + text_tokens(4, 1)], [clip(4), clip(4, 1)]
    )
    with prune(model, CONFIG) as handle:
        generate(model, inputs, 1)
    assert [video.span for video in handle.report.last.videos] == [(3, 67), (67, 131)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        pytest.param(TINY.video(6)[1:], "must have 96 video tokens in a row", id="too-few"),
        pytest.param(TINY.video(6) * 2, "for each of 1 videos, got runs of .192", id="too-many"),
        pytest.param(
            TINY.video(3) + [9] + TINY.video(3), "got runs of .48, 48", id="text-amid-a-video"
        ),
    ],
)
def test_placeholders_that_do_not_fit_the_video(ids, message):
    inputs = TINY.inputs([[9, *ids, 9, 10]], [clip(6)])
    with pytest.raises(ValueError, match=message), prune(TINY.build(), CONFIG):
        TINY.build()(**inputs)


def test_a_video_beside_an_image_without_its_pixels():
    ids = [9, IMAGE_ID, *TINY.video(2), 9]
    with pytest.raises(ValueError, match="images alone came"), prune(TINY.build(), CONFIG):
        TINY.build()(input_ids=torch.tensor([ids]), pixel_values=torch.zeros(1, 1, 3, 32, 32))


def test_random_model(folders):
    words = load_video_model(folders["llava_onevision"]).processor
    decoder = DecoderShape(32, 64, 2, 4, 2, 300)
    family = FAMILIES["llava_next_video"]
    model, processor = family.random_model(decoder, words, is_reduced=True)
    assert family.shape(model.config).decoder == decoder
    inputs = processor(np.zeros((2, 40, 60, 3), np.uint8), "What is blue?")
    assert model.eval()(**inputs).logits.shape[-1] == 300
