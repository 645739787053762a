"""PLLaVA against the reference data; checkpoint layouts; what a prompt may look like."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import generate, text_tokens
from tiny_pllava import (
    IMAGE_ID,
    PARITY,
    PUBLISHED,
    TOKENS,
    batch,
    merge_by_hand,
    prompt,
    published_folder,
    question,
    random_model,
    reference,
    relative_error,
)
from transformers import CLIPVisionConfig, LlamaConfig

from prunevid_kernels.adapters.checkpoint.files import (
    CheckpointError,
    StoredTensor,
    open_checkpoint,
)
from prunevid_kernels.adapters.checkpoint.loading import check_weights, empty_weights
from prunevid_kernels.adapters.families.pllava.checkpoint import IGNORED, recipes
from prunevid_kernels.adapters.families.pllava.config import PllavaConfig
from prunevid_kernels.adapters.families.pllava.model import Pllava, PllavaProjector

TOLERANCE = 1e-4


# ---- reference data


@pytest.mark.parametrize(
    ("given", "expected"),
    [("video16", "video16"), ("video5", "video5_repeated_to_16"), ("image1", "image1")],
)
def test_projector(given, expected):
    data = reference("pllava_projector")
    projector = PllavaProjector(
        PllavaConfig(
            text_config={"hidden_size": 20, "num_attention_heads": 2},
            vision_config={"hidden_size": 12, "num_attention_heads": 2},
        )
    )
    prefix = "state.multi_modal_projector."
    state = {k.removeprefix(prefix): t for k, t in data.items() if k.startswith(prefix)}
    projector.load_state_dict(state)
    result = projector(data[f"in.{given}"][None])
    assert relative_error(result, data[f"out.{expected}"]) <= TOLERANCE


@pytest.mark.parametrize("alpha", [14, 0])
def test_published_checkpoint_end_to_end(alpha):
    data = reference("pllava_e2e")
    model = Pllava.from_pretrained(PUBLISHED, lora_alpha=alpha)
    pixels, ids = data["in.pixel_values"], data["in.input_ids"]
    states = model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert relative_error(states[-2][:, 1:], data["vision.hidden_minus2_patches"]) <= TOLERANCE
    assert relative_error(model.encode_videos(pixels[None]), data["projector.out"]) <= TOLERANCE
    outputs = model(ids, pixels, output_hidden_states=True)
    for actual, name in [
        (outputs.hidden_states[0], "merged.inputs_embeds"),
        (outputs.hidden_states[2], f"alpha{alpha}.hidden_after_layer2"),
        (outputs.logits, f"alpha{alpha}.logits"),
    ]:
        assert relative_error(actual, data[name]) <= TOLERANCE, name
    told = model(
        model.expand_placeholders(ids)[0], pixels, position_ids=data["merged.position_ids"]
    )
    assert told.logits.equal(outputs.logits), "the positions are those of the reference"
    sequences = model.generate(
        input_ids=ids, pixel_values=pixels, max_new_tokens=12, do_sample=False
    )
    assert sequences[0, -12:].tolist() == data[f"alpha{alpha}.greedy12"].tolist()


def test_the_two_alphas_are_different_models():
    data = reference("pllava_e2e")
    assert relative_error(data["alpha14.logits"], data["alpha0.logits"]) > 100 * TOLERANCE


def test_full_size_layout_leaves_nothing_over(monkeypatch):
    # 14 billion bytes that are given back at once; poisoning them takes a minute
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    shapes = json.loads((PARITY / "layout_pllava_7b.json").read_text())
    stored = {
        key: StoredTensor(tuple(shape), torch.bfloat16, PARITY) for key, shape in shapes.items()
    }
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    with empty_weights():
        model = Pllava(
            PllavaConfig(text_config=LlamaConfig(vocab_size=32064), vision_config=vision)
        )
    report = check_weights(model, stored, recipes(stored, 14.0), ignore=IGNORED)
    assert report.is_loadable, report
    assert len(shapes) == 814 and report.loaded == 814 - 2 * 64 == len(model.state_dict())
    assert not report.ignored


# ---- checkpoint layouts


def rename_as_today(key: str) -> str:
    """What transformers of today calls the tensors of a LLaVA."""
    key = key.replace("language_model.lm_head", "lm_head").replace("vision_model.", "")
    key = key.replace("language_model.model", "model.language_model")
    return f"model.{key}" if key.startswith(("vision", "multi")) else key


@pytest.mark.parametrize("today", [False, True], ids=["plain", "today"])
def test_merged_layouts_are_the_same_model(tmp_path, today):
    merge = merge_by_hand(14)

    def change(key, tensor):
        pair = merge(key, tensor)
        return (rename_as_today(pair[0]), pair[1]) if today and pair else pair

    merged = Pllava.from_pretrained(published_folder(tmp_path / "m", change))
    folded = Pllava.from_pretrained(PUBLISHED, lora_alpha=14)
    for name, tensor in folded.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor, msg=name)


def test_older_peft_layout(tmp_path):
    """No ``base_layer``, no adapter name."""

    def change(key, tensor):
        return key.replace(".base_layer", "").replace(".default", ""), tensor

    older = Pllava.from_pretrained(published_folder(tmp_path / "m", change), lora_alpha=14)
    expected = Pllava.from_pretrained(PUBLISHED, lora_alpha=14).state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in older.state_dict().items())


def test_lora_is_folded_in_float32(tmp_path):
    """A bfloat16 checkpoint, loaded in float32: nothing is rounded to bfloat16 on the way."""
    folder = published_folder(tmp_path / "m", lambda key, tensor: (key, tensor.bfloat16()))
    model = Pllava.from_pretrained(folder, lora_alpha=14, dtype=torch.float32)
    weight = model.language_model.model.layers[1].self_attn.q_proj.weight
    assert not weight.equal(weight.bfloat16().float())
    stored = Pllava.from_pretrained(folder, lora_alpha=14)
    assert stored.dtype == torch.bfloat16
    assert stored.language_model.model.layers[1].self_attn.q_proj.weight.equal(weight.bfloat16())
    assert stored.get_decoder().rotary_emb.inv_freq.dtype == torch.float32


def test_saved_model_comes_back(tmp_path):
    model = Pllava.from_pretrained(PUBLISHED, lora_alpha=14)
    model.save_pretrained(tmp_path)
    again = Pllava.from_pretrained(tmp_path)
    assert all(t.equal(again.state_dict()[name]) for name, t in model.state_dict().items())
    assert again.config.pooling_shape == model.config.pooling_shape == [6, 3, 3]
    assert again.config.image_token_index == 150
    with pytest.raises(CheckpointError, match="holds no LoRA updates"):
        Pllava.from_pretrained(tmp_path, lora_alpha=14)


def test_lora_alpha_is_never_guessed():
    with pytest.raises(CheckpointError, match="lora_alpha is needed"):
        Pllava.from_pretrained(PUBLISHED)


@pytest.mark.parametrize(
    ("dropped", "expected"),
    [
        ("layers.2.self_attn.q_proj.lora_B", "layers.2.self_attn.q_proj.weight (nothing matches"),
        (
            "layers.2.mlp.up_proj",
            "missing (1):\n  language_model.model.layers.2.mlp.up_proj.weight",
        ),
        ("embeddings.class_embedding", "missing (1):\n  vision_tower.embeddings.class_embedding"),
    ],
)
def test_a_missing_tensor_is_an_error(tmp_path, dropped, expected):
    folder = published_folder(
        tmp_path / "m", lambda key, tensor: None if dropped in key else (key, tensor)
    )
    with pytest.raises(CheckpointError) as caught:
        Pllava.from_pretrained(folder, lora_alpha=14)
    assert expected in str(caught.value)


def test_old_buffers_are_ignored(tmp_path):
    """Position ids, rotary frequencies and the image newline of older versions."""
    folder = published_folder(tmp_path / "m", merge_by_hand(14))
    tensors = load_file(folder / "model.safetensors")
    for name in (
        "vision_tower.vision_model.embeddings.position_ids",
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq",
        "image_newline",
    ):
        tensors[name] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    assert len(Pllava.check_pretrained(open_checkpoint(folder)).ignored) == 3
    Pllava.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"pooling_method": "max"}, "pooling_method must be 'avg'", id="pooling"),
        pytest.param({"pooling_shape": None}, "no pooling_shape", id="missing"),
    ],
)
def test_config_that_is_another_model(tmp_path, change, expected):
    folder = published_folder(tmp_path / "m", lambda key, tensor: (key, tensor))
    values = json.loads((folder / "config.json").read_text()) | change
    values = {name: value for name, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=expected):
        Pllava.from_pretrained(folder, lora_alpha=14)


# ---- prompts


def single(ids: list[int]) -> list[int]:
    """The published form, with one placeholder."""
    return [t for i, t in enumerate(ids) if t != IMAGE_ID or ids[i - 1] != IMAGE_ID]


def test_both_forms_of_a_prompt_are_one():
    model, inputs = random_model(), question()
    short = {
        "input_ids": torch.tensor([single(inputs["input_ids"][0].tolist())]),
        "pixel_values": inputs["pixel_values"][0],
    }
    assert short["input_ids"].shape[1] == inputs["input_ids"].shape[1] - TOKENS + 1
    long, brief = generate(model, inputs), generate(model, short)
    assert long.sequences.equal(brief.sequences)
    assert torch.stack(long.logits).equal(torch.stack(brief.logits))
    assert model(**inputs).logits.equal(model(**short).logits)
    positional = model.generate(
        short["input_ids"], pixel_values=short["pixel_values"], max_new_tokens=9
    )
    assert positional.equal(long.sequences)


def test_padded_batch_in_both_forms():
    """Rows of different length, the mask grows with its ids."""
    model = random_model()
    prompts = [prompt(2, 9, 1), prompt(6, 3, 2)]
    result = generate(model, batch(prompts, [1, 2]))
    short = generate(model, batch([single(ids) for ids in prompts], [1, 2]))
    assert short.sequences[:, -9:].equal(result.sequences[:, -9:])
    for row, ids in enumerate(prompts):
        alone = generate(model, batch([ids], [row + 1]))
        assert result.sequences[row, -9:].equal(alone.sequences[0, -9:])


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_fewer_frames_are_repeated(frames):
    """As if the frames themselves had been repeated, and cut."""
    model, pixels = random_model(), question()["pixel_values"][:, :frames]
    repeated = pixels.repeat_interleave(6 // frames + 1, dim=1)[:, :6]
    torch.testing.assert_close(model.encode_videos(pixels), model.encode_videos(repeated))


def test_more_frames_are_averaged():
    model, pixels = random_model(), question()["pixel_values"]
    twice = pixels.repeat_interleave(2, dim=1)
    torch.testing.assert_close(model.encode_videos(twice), model.encode_videos(pixels))


def test_beams_and_returned_sequences():
    model = random_model()
    inputs = batch([single(prompt(2, 5, 1)), single(prompt(4, 3, 2))], [1, 2])
    beams = model.generate(**inputs, max_new_tokens=6, num_beams=3, num_return_sequences=2)
    assert beams.shape[0] == 4
    for row in range(2):
        alone = batch([single(prompt(2 + 2 * row, 5 - 2 * row, 1 + row))], [1 + row])
        expected = model.generate(**alone, max_new_tokens=6, num_beams=3, num_return_sequences=2)
        assert beams[2 * row : 2 * row + 2, -6:].equal(expected[:, -6:])


def test_prompt_lookup_is_greedy():
    model, inputs = random_model(), question()
    expected = model.generate(**inputs, max_new_tokens=9)
    assert model.generate(**inputs, max_new_tokens=9, prompt_lookup_num_tokens=3).equal(expected)


def test_second_turn_with_a_second_video():
    """One cache throughout equals the whole conversation at once."""
    model = random_model()
    first = generate(model, question(), use_cache=True)
    more = torch.tensor([text_tokens(2, 8) + [IMAGE_ID] + text_tokens(4, 9)])
    ids = torch.cat((first.sequences, more), dim=1)
    pixels = [question(seed)["pixel_values"] for seed in (0, 5)]
    second = generate(
        model,
        {"input_ids": ids, "past_key_values": first.past_key_values, "pixel_values": pixels[1]},
    )
    whole = generate(model, {"input_ids": ids, "pixel_values": torch.cat(pixels)})
    assert second.sequences.equal(whole.sequences)


def test_static_cache():
    model, inputs = random_model(), question()
    static = generate(model, inputs, cache_implementation="static")
    assert static.sequences.equal(generate(model, inputs).sequences)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"pixel_values": None}, "no pixel_values came", id="no-video"),
        pytest.param(
            {"pixel_values": torch.zeros(2, 6, 3, 32, 32)}, "for 1 of 2 videos", id="two-videos"
        ),
        pytest.param({"pixel_values": torch.zeros(6, 3, 30, 32)}, "3, 32, 32", id="size"),
        pytest.param({"pixel_values": torch.zeros(3, 32, 32)}, "or [frames, 3", id="one-image"),
        pytest.param(
            {"input_ids": torch.tensor([[9, *[IMAGE_ID] * 95, 9]]), "attention_mask": None},
            "a video of this PLLaVA has 96 tokens in a row",
            id="cut",
        ),
        pytest.param(
            {"input_ids": torch.tensor([[9, *[IMAGE_ID] * 95, 9, 1]]), "attention_mask": None},
            "96 tokens in a row",
            id="apart",
        ),
        pytest.param(
            {"input_ids": torch.tensor([[9, 9, 9]]), "attention_mask": None},
            "for 0 of 1 videos",
            id="no-placeholder",
        ),
        pytest.param(
            {"input_ids": None, "inputs_embeds": torch.zeros(1, 3, 32), "attention_mask": None},
            "pixel_values need input_ids",
            id="embeddings",
        ),
        pytest.param(
            {"input_ids": torch.tensor([[9, 1, 9]]), "attention_mask": None}
            | {"position_ids": torch.arange(3)[None]},
            "position_ids need <image> once for each",
            id="positions",
        ),
        pytest.param(
            {"input_ids": torch.tensor([[9, 1, 9]]), "attention_mask": torch.ones(1, 1, 3, 3)},
            "attention_mask must be 2-D",
            id="mask",
        ),
    ],
)
def test_what_cannot_be_placed(change, expected):
    with pytest.raises(ValueError) as caught:
        random_model()(**(question() | change))
    assert expected in str(caught.value)


def test_rows_that_would_grow_differently():
    inputs = batch([single(prompt(2, 5)), text_tokens(8)], [0])
    with pytest.raises(ValueError, match=r"equally many <image>, got \[1, 0\]"):
        generate(random_model(), inputs)
