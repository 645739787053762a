"""ST-LLM against numbers of the original model in float32, part by part and as a whole."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_st_llm import PARITY, Reference, checkpoint_folder, relative_error
from torch import Tensor, nn
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
)

from prunevid_kernels.adapters.checkpoint.files import StoredTensor
from prunevid_kernels.adapters.checkpoint.loading import check_weights, empty_weights
from prunevid_kernels.adapters.families.st_llm.checkpoint import IGNORED, recipes
from prunevid_kernels.adapters.families.st_llm.config import StLlmConfig
from prunevid_kernels.adapters.families.st_llm.model import StLlm
from prunevid_kernels.adapters.families.st_llm.vision import EvaVisionModel

TOLERANCE = 1e-4
TOWER = "video_encoder.vision_tower"


def tower_of(reference: Reference, **options: int) -> EvaVisionModel:
    sizes = reference.config
    return EvaVisionModel(
        InstructBlipVisionConfig(
            hidden_size=sizes["embed_dim"],
            intermediate_size=sizes["mlp_hidden"],
            num_hidden_layers=sizes["depth"],
            num_attention_heads=sizes["heads"],
            image_size=sizes["image"],
            patch_size=sizes["patch"],
        ),
        **options,
    ).eval()


def blocks_of(tower: EvaVisionModel, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """What each block and the whole tower make of one clip."""
    blocks: list[Tensor] = []
    for block in tower.encoder.layers:
        block.register_forward_hook(lambda module, args, output: blocks.append(output))
    return blocks, tower(pixels[None])[0]


def test_vision_tower(tmp_path):
    reference = Reference("stllm_eva")
    tower = tower_of(reference)
    reference.fill(tower, TOWER, tmp_path)
    blocks, states = blocks_of(tower, reference["in.pixel_values"])
    assert relative_error(blocks[0], reference["out.block0"]) <= TOLERANCE
    assert relative_error(blocks[-1], reference["out.last_block"]) <= TOLERANCE
    assert relative_error(states, reference["out.ln_vision"]) <= TOLERANCE


def test_norm_after_the_last_block_has_another_eps(tmp_path):
    """On activations so small that eps counts."""
    reference = Reference("stllm_eva_eps_probe")
    tower = tower_of(Reference("stllm_eva"))  # of the same sizes
    reference.fill(tower, TOWER, tmp_path)
    blocks, _ = blocks_of(tower, reference["in.pixel_values"])
    assert relative_error(blocks[-1], reference["out.last_block"]) <= TOLERANCE
    states = tower.post_layernorm(reference["in.ln_vision"])
    assert relative_error(states, reference["out.ln_vision"]) <= TOLERANCE
    tower.post_layernorm.eps = tower.config.layer_norm_eps  # that of the blocks
    states = tower.post_layernorm(reference["in.ln_vision"])
    assert relative_error(states, reference["out.ln_vision"]) > 10 * TOLERANCE


@pytest.mark.parametrize("clips", ["clip4", "batch2x5"])
def test_vision_tower_with_branch(tmp_path, clips):
    reference = Reference("stllm_eva_btadapter")
    tower = tower_of(reference, adapter_layers=reference.config["adapter_depth"])
    tower.post_layernorm = nn.Identity()  # not in this reference
    reference.fill(tower, TOWER, tmp_path)
    pixels = reference[f"in.{clips}"]
    states = tower(pixels if pixels.ndim == 5 else pixels[None])
    assert relative_error(states.flatten(0, 1), reference[f"out.{clips}"]) <= TOLERANCE


def test_branch_refuses_more_frames_than_it_has_positions_for(tmp_path):
    tower = tower_of(Reference("stllm_eva_btadapter"), adapter_layers=3, adapter_frames=4)
    with pytest.raises(ValueError, match="at most 4 frames, got 5"):
        tower(torch.zeros(1, 5, 3, 56, 56))
    with pytest.raises(
        ValueError, match=r"must be \[clips, frames, 3, 56, 56\], got \[1, 4, 3, 28"
    ):
        tower(torch.zeros(1, 4, 3, 28, 28))


@pytest.mark.parametrize("case", ["text", "text_padded", "no_text"])
def test_qformer(tmp_path, case):
    reference = Reference("stllm_qformer")
    sizes = reference.config
    qformer = InstructBlipQFormerModel(
        InstructBlipQFormerConfig(
            vocab_size=sizes["vocab"],
            hidden_size=sizes["hidden"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            intermediate_size=sizes["intermediate"],
            max_position_embeddings=sizes["max_pos"],
            encoder_hidden_size=sizes["encoder_width"],
        )
    )
    reference.fill(qformer, "video_encoder.qformer", tmp_path)
    ids = {"text": "in.text_ids", "text_padded": "in.text_ids_padded"}.get(case)
    queries = reference["state.model.stllm_model.query_tokens"].expand(3, -1, -1)
    mask = None
    if case == "text_padded":
        text_mask = reference["in.text_mask_padded"]
        mask = torch.cat((text_mask.new_ones(queries.shape[:2]), text_mask), dim=1)
    states = qformer(
        input_ids=None if ids is None else reference[ids],
        attention_mask=mask,
        query_embeds=queries,
        encoder_hidden_states=reference["in.encoder"],
    ).last_hidden_state
    assert relative_error(states, reference[f"out.{case}"]) <= TOLERANCE


@pytest.fixture(scope="module")
def qa_model(tmp_path_factory) -> StLlm:
    return StLlm.from_pretrained(checkpoint_folder(tmp_path_factory.mktemp("qa"), "qa"))


@pytest.fixture(scope="module")
def qa() -> Reference:
    return Reference("stllm_e2e_qa")


def test_whole_qa_model(qa_model, qa):
    features = qa_model.encode_videos(qa["in.frames"], qa["in.qformer_text_ids"])
    assert relative_error(features[0], qa["out.encode_img"]) <= TOLERANCE
    decoder_inputs = []
    hook = qa_model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: decoder_inputs.append(kwargs["inputs_embeds"]),
        with_kwargs=True,
    )
    outputs = qa_model(
        qa["in.prompt_ids"],
        qa["in.frames"][None],
        qa["in.qformer_text_ids"],
        torch.ones_like(qa["in.qformer_text_ids"]),
        output_hidden_states=True,
    )
    hook.remove()
    assert relative_error(decoder_inputs[0], qa["out.inputs_embeds"]) <= TOLERANCE
    assert relative_error(decoder_inputs[0][:, :48], qa["out.visual_span"]) <= TOLERANCE
    assert relative_error(outputs.hidden_states[2], qa["out.hidden_after_layer2"]) <= TOLERANCE
    assert relative_error(outputs.logits, qa["out.logits"]) <= TOLERANCE


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("placeholders", [0, 48])
def test_greedy_answer_of_the_qa_model(qa_model, qa, placeholders, attention):
    qa_model.set_attn_implementation(attention)
    ids = torch.cat((torch.zeros(1, placeholders, dtype=torch.int64), qa["in.prompt_ids"]), dim=1)
    answer = qa_model.generate(
        input_ids=ids,
        pixel_values=qa["in.frames"][None],
        qformer_input_ids=qa["in.qformer_text_ids"],
        max_new_tokens=12,
        do_sample=False,
    )
    assert answer[0, 48 + ids.shape[1] - placeholders :].tolist() == qa["out.greedy12"].tolist()


def test_conversation_model_adds_the_mean_of_all_frames_to_some(tmp_path):
    """Residual mode has no reference numbers; this says in a loop what the description says."""
    model = StLlm.from_pretrained(checkpoint_folder(tmp_path, "conversation"))
    assert (model.config.adapter_layers, model.config.residual_size) == (0, 4)
    pixels = torch.randn(12, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    residual, model.video_encoder.residual = model.video_encoder.residual, None
    per_frame = model.encode_videos(pixels)[0]  # [12, 8, C]
    model.video_encoder.residual = residual
    mean = sum(per_frame) / 12
    hidden = (mean @ residual.down.weight.T + residual.down.bias).clamp(min=0)
    added = hidden @ residual.up.weight.T + residual.up.bias
    expected = torch.stack([per_frame[i] + added for i in (1, 4, 7, 10)])
    assert relative_error(model.encode_videos(pixels)[0], expected) <= 1e-6
    with pytest.raises(ValueError, match="at least 4 frames, got 3"):
        model.encode_videos(pixels[:3])


@pytest.mark.parametrize("kind", ["qa", "conversation"])
def test_full_size_layout_leaves_nothing_over(tmp_path, monkeypatch, kind):
    # 7B parameters on their way to the meta device: nothing reads them, so they need no poison.
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    layout = json.loads((PARITY / f"layout_stllm_{kind}.json").read_text())
    published = json.loads((PARITY / f"stllm_tiny_{kind}_ckpt" / "config.json").read_text())
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32001}
    (tmp_path / "config.json").write_text(json.dumps(published | sizes | heads))
    stored = {
        key: StoredTensor(
            tuple(shape),
            torch.int64 if key.endswith("position_ids") else torch.bfloat16,
            tmp_path / "pytorch_model.bin",
        )
        for key, shape in layout.items()
    }
    config = StLlmConfig.read(tmp_path, stored)
    with empty_weights():
        model = StLlm(config)
    report = check_weights(model, stored, recipes(stored), ignore=IGNORED)
    assert report.is_loadable, str(report)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert config.vision_config.num_hidden_layers == 39
    assert config.residual_size == (16 if kind == "conversation" else None)
    assert len(config.token_frames(64)) * config.num_query_tokens == 512 * (
        1 if kind == "conversation" else 4
    )
