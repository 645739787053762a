"""The embedded model's folder is a checkpoint like any other: transformers reads all of it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)

from prunevid_kernels.adapters import load_video_model
from prunevid_kernels.benchmarks.datasets import synthetic
from prunevid_kernels.benchmarks.embedded.model import EMBEDDED_MODEL, SAMPLE_INDEX, SAMPLE_QUESTION
from prunevid_kernels.benchmarks.train_tiny.model import processor_files

CONVERSATION = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": SAMPLE_QUESTION}]}
]


def content(name: str) -> dict:
    return json.loads((EMBEDDED_MODEL / name).read_text())


def test_files_are_those_that_training_writes():
    config = AutoConfig.from_pretrained(EMBEDDED_MODEL)
    for name, expected in processor_files(config, synthetic.FRAMES).items():
        assert content(name) == expected


def test_auto_processor_makes_the_same_inputs_or_lacks_torchvision_alone():
    if find_spec("torchvision") is None:
        with pytest.raises((ImportError, ValueError), match="(?i)torchvision"):
            AutoProcessor.from_pretrained(EMBEDDED_MODEL, local_files_only=True)
        return
    processor = AutoProcessor.from_pretrained(EMBEDDED_MODEL, local_files_only=True)
    frames = synthetic.make_clip("held_out", SAMPLE_INDEX).frames
    text = processor.apply_chat_template(CONVERSATION, add_generation_prompt=True)
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    theirs = processor(text=text, videos=[video], return_tensors="pt")
    ours = load_video_model(EMBEDDED_MODEL).encode(frames, SAMPLE_QUESTION)
    assert theirs["input_ids"].equal(ours["input_ids"])
    torch.testing.assert_close(theirs["pixel_values_videos"], ours["pixel_values_videos"])


@pytest.mark.one_version  # the oldest version's class counts no tokens of videos
def test_processor_file_counts_the_tokens_that_the_model_takes():
    """By the class's own rule, without its parts that need torchvision."""
    values = content("processor_config.json")
    assert values.pop("processor_class") == LlavaOnevisionProcessor.__name__
    assert content("video_preprocessor_config.json")["video_processor_type"] == (
        LlavaOnevisionVideoProcessor.__name__
    )
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    processor: Any = SimpleNamespace(**values)
    text = tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    tokens = LlavaOnevisionProcessor._get_num_multimodal_tokens(
        processor, video_sizes=[(8, 96, 96)]
    )
    count = tokens["num_video_tokens"][0]
    ids = tokenizer(text.replace("<video>", "<video>" * count)).input_ids
    frames = np.zeros((8, 96, 96, 3), np.uint8)
    ours = load_video_model(EMBEDDED_MODEL).encode(frames, SAMPLE_QUESTION)
    assert ours["input_ids"].tolist() == [ids]


def test_it_takes_as_many_frames_as_it_was_trained_on():
    model = load_video_model(EMBEDDED_MODEL)
    assert model.default_frames == synthetic.FRAMES == 8
