"""What a folder must hold to be an ST-LLM, and what is said where it does not."""

from __future__ import annotations

import pytest
import torch
from tiny_st_llm import batch, checkpoint_folder, clip, edit_weights, question, random_model
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from prunevid_kernels.adapters.checkpoint.files import CheckpointError, open_checkpoint
from prunevid_kernels.adapters.families.st_llm.model import StLlm

OUTER = "model.stllm_model.embed_tokens.weight"
INNER = "model.embed_tokens.weight"


@pytest.mark.parametrize("kind", ["qa", "conversation"])
def test_report_names_what_is_ignored(tmp_path, kind):
    folder = checkpoint_folder(tmp_path, kind)
    report = StLlm.check_pretrained(open_checkpoint(folder))
    assert report.is_loadable
    ignored = {key.removeprefix("model.stllm_model.").split(".")[0] for key in report.ignored}
    assert ignored == ({"Qformer", "mvm_decoder"} if kind == "qa" else {"Qformer"})


@pytest.mark.parametrize("kind", ["qa", "conversation"])
def test_two_different_token_embeddings(tmp_path, kind):
    folder = checkpoint_folder(tmp_path, kind)
    outer = torch.randn(101, 56, generator=torch.Generator().manual_seed(0))
    edit_weights(folder, **{OUTER: outer})
    with pytest.warns(UserWarning, match=f"two different token embeddings; {OUTER} is used"):
        model = StLlm.from_pretrained(folder)
    assert model.get_input_embeddings().weight.equal(outer)
    file = folder / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    del state[OUTER]
    torch.save(state, file)
    model = StLlm.from_pretrained(folder)
    assert model.get_input_embeddings().weight.equal(state[INNER])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        pytest.param(
            "qa",
            {"model.stllm_model.visual_encoder.blocks.3.attn.q_bias": None},
            r"missing \(1\):\n .*layers.3.self_attn.qkv.bias \(nothing matches",
            id="half-a-bias",
        ),
        pytest.param(
            "qa",
            {"model.stllm_model.visual_encoder.BTAdapter_extra": torch.zeros(1)},
            r"unexpected \(1\):\n  model.stllm_model.visual_encoder.BTAdapter_extra",
            id="unknown-key",
        ),
        pytest.param(
            "qa",
            {"model.stllm_model.down_proj.weight": torch.zeros(8, 56)},
            "either a BT-Adapter .* or a down_proj .*, this checkpoint has both",
            id="both-kinds",
        ),
        pytest.param(
            "conversation",
            {"model.stllm_model.down_proj.weight": None},
            "this checkpoint has neither",
            id="neither-kind",
        ),
        pytest.param(
            "conversation",
            {"model.stllm_model.query_tokens": None},
            "no model.stllm_model.query_tokens, which an ST-LLM has",
            id="no-queries",
        ),
        pytest.param(
            "conversation",
            {OUTER: torch.zeros(100, 56)},
            r"mismatched \(1\):\n  language_model.*two token embeddings of different shapes",
            id="embeddings-of-two-shapes",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, kind, changes, message):
    folder = checkpoint_folder(tmp_path, kind)
    edit_weights(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        StLlm.from_pretrained(folder)


def test_config_that_does_not_describe_the_model_is_refused(tmp_path):
    folder = checkpoint_folder(tmp_path, "qa", hidden_size="wide")
    with pytest.raises(CheckpointError, match="config.json: does not describe an ST-LLM"):
        StLlm.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_model_loads_again(tmp_path, dtype):
    (tmp_path / "published").mkdir()
    folder = checkpoint_folder(tmp_path / "published", "conversation")
    model = StLlm.from_pretrained(folder, dtype=dtype)
    assert (model.dtype, model.config.dtype) == (dtype, dtype)
    model.save_pretrained(tmp_path / "saved")
    again = StLlm.from_pretrained(tmp_path / "saved")
    inputs = {
        "input_ids": torch.tensor([[2, 9, 8, 7]]),
        "pixel_values": clip(5, side=56)[None],
        "qformer_input_ids": torch.tensor([[3, 4, 5]]),
    }
    assert again.dtype == dtype
    assert again(**inputs).logits.equal(model(**inputs).logits)


def test_layer_norm_in_bfloat16_rounds_once():
    """That is why the model needs no norm of its own: torch's reduces in float32."""
    x = torch.randn(64, 1408, generator=torch.Generator().manual_seed(0)).bfloat16()
    norm = torch.nn.LayerNorm(1408).bfloat16()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    wide = torch.nn.functional.layer_norm(
        x.float(), (1408,), norm.weight.float(), norm.bias.float()
    )
    differing = (norm(x) != wide.bfloat16()).float().mean()
    assert differing <= 1e-3  # sums in another order


def test_padded_batch_answers_as_its_rows_do():
    model = random_model()
    rows = [question(seed=1, words=3), question(seed=2, words=8)]
    together = model.generate(**batch(*rows), max_new_tokens=6)
    for row, inputs in enumerate(rows):
        alone = model.generate(**inputs, max_new_tokens=6)
        assert together[row, -6:].equal(alone[0, -6:])


def test_placeholders_are_put_after_the_padding():
    model = random_model()
    ids = torch.tensor([[2, 2, 2, 9], [2, 8, 7, 6]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    ids, mask = model.add_placeholders(ids, mask, 3)
    assert ids.tolist() == [[2, 2, 0, 0, 0, 2, 9], [0, 0, 0, 2, 8, 7, 6]]
    assert mask.tolist() == [[0, 0, 1, 1, 1, 1, 1], [1] * 7]


def test_published_repetition_penalty_counts_the_answer_alone():
    model, inputs = random_model(), question(frames=2)
    length = inputs["input_ids"].shape[1]
    penalty = RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=length)
    as_published = model.generate(
        **inputs, max_new_tokens=8, num_beams=5, logits_processor=LogitsProcessorList([penalty])
    )
    embeds = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    # As the published evaluation calls it: embeddings, and no ids.
    expected = model.language_model.generate(
        inputs_embeds=embeds[0],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=8,
        num_beams=5,
        repetition_penalty=1.5,
        eos_token_id=None,
        pad_token_id=2,
    )
    assert as_published[0, length:].tolist() == expected[0].tolist()


def wrong(**changes):
    return {**question(), **changes}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param(
            wrong(input_ids=torch.tensor([[0, 0, 2, 9]])), "has 192 visual tokens.*has 2", id="few"
        ),
        pytest.param(wrong(input_ids=None), "pixel_values need input_ids", id="no-ids"),
        pytest.param(
            wrong(input_ids=torch.tensor([[2, 9]] * 2), attention_mask=None),
            "1 videos for 2 prompts",
            id="one-video-two-prompts",
        ),
        pytest.param(
            wrong(qformer_input_ids=torch.tensor([[2, 9]] * 2)),
            "a row for each of 1 videos, got 2",
            id="two-questions",
        ),
        pytest.param(
            wrong(input_ids=torch.tensor([[2, 9]])), "attention_mask must be", id="mask-too-long"
        ),
        pytest.param(
            wrong(
                input_ids=torch.tensor([[2, 9]]),
                attention_mask=None,
                position_ids=torch.tensor([[0, 1]]),
            ),
            "position_ids need a placeholder",
            id="positions",
        ),
        pytest.param(
            wrong(video_features=torch.zeros(1, 6, 32, 32)), "give one of them", id="both-forms"
        ),
    ],
)
def test_inputs_that_do_not_belong_together(inputs, message):
    with pytest.raises(ValueError, match=message):
        random_model()(**inputs)


def test_second_video_is_refused():
    model = random_model()
    cache = model(**question()).past_key_values
    with pytest.raises(ValueError, match="one video, in front: the cache is not empty"):
        model(**wrong(attention_mask=None), past_key_values=cache)
