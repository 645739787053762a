"""The documents' Python examples run as they are printed, and compute what is said of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_folders
import tiny_models
import torch
from documents import DOCS, NEEDS, PAGES, RUNS, run
from transformers import LlamaConfig, LlamaForCausalLM

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import PromptVisuals, VideoSpan, prune
from prunevid_kernels.benchmarks.embedded import SAMPLE_CLIP


def examples() -> list[Any]:
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        runs = [(None, example) for example in RUNS.findall(text)]
        for number, (module, example) in enumerate([*runs, *NEEDS.findall(text)]):
            found.append(pytest.param(module, example, id=f"{path.name}-{number}"))
    return found


@pytest.fixture(scope="module")
def reader_s_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are run: a clip, and a folder of a model that stands in for the 7B one,
    with as many layers as the default config needs."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(SAMPLE_CLIP, folder / "clip.mp4")
    (folder / "MODELS").mkdir()
    model = tiny_folders.write_llava_onevision(
        folder / "MODELS" / "llava-onevision-7b", num_hidden_layers=PruneVidConfig().layer + 2
    )
    file = model / "generation_config.json"
    generation = json.loads(file.read_text())
    letters = range(tiny_models.FIRST_TEXT_ID, tiny_models.VOCABULARY)  # any of them ends an answer
    generation["eos_token_id"] = [generation["eos_token_id"], *letters]
    file.write_text(json.dumps(generation))
    return folder


def importing(number: int) -> str:
    return RUNS.findall((DOCS / "importing.md").read_text(encoding="utf-8"))[number]


@pytest.mark.parametrize(("module", "example"), examples())
def test_example_runs(module, example, reader_s_folder, monkeypatch, capsys):
    """And prints what the comments beside its ``print`` say, in their order."""
    if module is not None:
        pytest.importorskip(module, reason=f"the page says that it needs {module}")
    monkeypatch.chdir(reader_s_folder)
    run(example)
    printed = iter(capsys.readouterr().out.splitlines())
    for start in re.findall(r"^print\(.*\)  # (.*)$", example, re.M):
        assert any(line.startswith(start.removesuffix(" ...")) for line in printed), start


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_python_example_is_left_out(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("```python\n") == len(RUNS.findall(text)) + len(NEEDS.findall(text))


def test_the_import_examples_do_without_the_adapters():
    for number in range(2):
        assert "transformers" not in importing(number)
        assert "prunevid_kernels.adapters" not in importing(number)


# How the example scores, and how the text below it says to.
NOPE_SCORING = r"scores = (score_visual_tokens\(query.*\))"
ROPE_SCORING = r"`(score_visual_tokens\(rotate.*\))`"
# Their names in the example's decoder -> in Llama's.
NAMES = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def llama_name(name: str) -> str:
    if name == "head.weight":
        return "lm_head.weight"
    if not name.startswith("layers."):
        return "model." + name.replace("embedding", "embed_tokens")
    _, number, part, rest = name.split(".")
    return f"model.layers.{number}.{NAMES[part]}.{rest}"


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(PruneVidConfig(layer=1), id="threshold"),
        pytest.param(PruneVidConfig(layer=0, budget=70), id="budget"),
        pytest.param(PruneVidConfig(layer=3, selection="global"), id="last-layer"),
        pytest.param(PruneVidConfig(layer=1, score="rope"), id="rope"),
    ],
)
def test_the_decoder_loop_says_what_a_pruned_llama_says(config):
    example = importing(1)
    if config.score == "rope":
        page = (DOCS / "importing.md").read_text(encoding="utf-8")
        nope, rope = (re.findall(how, page)[-1] for how in (NOPE_SCORING, ROPE_SCORING))
        example = example.replace(nope, rope)
    names = run(example)
    decoder, features = names["decoder"], 2 * names["features"]
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.25, generator=torch.Generator().manual_seed(weight.numel()))
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=names["WIDTH"],
            intermediate_size=2 * names["WIDTH"],
            num_hidden_layers=len(decoder.layers),
            num_attention_heads=names["HEADS"],
            num_key_value_heads=names["KEY_HEADS"],
            vocab_size=names["VOCABULARY"],
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            eos_token_id=None,
        )
    ).eval()
    weights = {llama_name(name): value for name, value in decoder.state_dict().items()}
    llama.load_state_dict(weights)

    found = decoder.generate(names["before"], features, names["after"], 12, config)

    embed = llama.get_input_embeddings()
    embeds = torch.cat((embed(names["before"]), features.flatten(0, 1), embed(names["after"])))
    span = PromptVisuals(videos=(VideoSpan(len(names["before"]), *features.shape[:2]),))
    with prune(llama, config) as handle, handle.videos([span]):
        expected = llama.generate(inputs_embeds=embeds[None], max_new_tokens=12, do_sample=False)
    assert found == expected[0].tolist()
    assert len(set(found)) > 3
    assert handle.report.last.tokens_kept < handle.report.last.tokens_merged
