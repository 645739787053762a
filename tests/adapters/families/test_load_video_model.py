"""The one way to load a model: strict for every family, and nothing that a folder says is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import PARITY
from safetensors.torch import load_file, save_file
from tiny_folders import WRITERS, write_grid, write_pllava_tokenizer

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import ModelError, load_video_model, prune
from prunevid_kernels.adapters.checkpoint.files import open_checkpoint
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.detect import detect_family

# One strict loader serves all: a family of each of the ways into it (a class of transformers, one
# whose weights are renamed, and the two that have classes of their own).
WAYS = ("llava_onevision", "qwen3_vl", "pllava", "st_llm")


@pytest.fixture(
    params=[pytest.param(name, marks=() if name in WAYS else pytest.mark.full) for name in WRITERS]
)
def folder(request, folders, tmp_path) -> Path:
    """A copy of one family's folder, to be changed."""
    return Path(shutil.copytree(folders[request.param], tmp_path / request.param))


@pytest.fixture(params=WRITERS)
def any_folder(request, folders, tmp_path) -> Path:
    """The same, of every family."""
    return Path(shutil.copytree(folders[request.param], tmp_path / request.param))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def change_json(file: Path, **values: object) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | values))


def a_matrix(tensors: dict[str, torch.Tensor]) -> str:
    return sorted(key for key in tensors if key.endswith("down_proj.weight"))[0]


@pytest.mark.parametrize("name", WRITERS)
def test_every_family_is_loaded_and_answers(folders, name):
    model = load_video_model(folders[name])
    assert model.family is FAMILIES[name] and model.name == name
    assert model.model.dtype == torch.float32 and not model.model.training
    assert model.default_frames == model.processor.num_frames
    # A frame of this family has at least 128 tokens of the published size: here 1,598.
    frames = 2 if name == "video_llama_3" else 16
    video = torch.randint(0, 256, (frames, 40, 60, 3), dtype=torch.uint8).numpy()
    rows, columns = model.grid_of(video)
    inputs = model.encode(video, "What is blue?", seconds=np.arange(frames) / 2)
    ids = inputs["input_ids"]
    placeholder = model.family.adapter().video_token_id(model.model)
    shown, chosen = model.shown_frames(video)
    assert len(shown) == len(chosen)
    newline = name == "llava_onevision"
    assert int((ids == placeholder).sum()) == len(shown) * rows * columns + newline
    config = PruneVidConfig(layer=len(model.model.get_decoder().layers) // 2)
    with prune(model.model, config) as handle:
        assert isinstance(model.generate(inputs, max_new_tokens=2), str)
    assert handle.report.last.tokens_before == len(shown) * rows * columns


def test_a_path_may_be_a_string_and_the_dtype_is_the_callers(folders):
    model = load_video_model(str(folders["pllava"]), dtype=torch.bfloat16)
    assert {p.dtype for p in model.model.parameters()} == {torch.bfloat16}


# ---- weights


def drop(tensors):
    del tensors[a_matrix(tensors)]


def add(tensors):
    tensors["left.over"] = torch.zeros(3)


def cut(tensors):
    key = a_matrix(tensors)
    tensors[key] = tensors[key][:-1].contiguous()


def round_to(dtype):
    def change(tensors):
        key = a_matrix(tensors)
        tensors[key] = tensors[key].to(dtype)

    return change


def spoil(value):
    def change(tensors):
        tensors[a_matrix(tensors)][1, 2] = value

    return change


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(add, r"unexpected \(1\):\n  left.over", id="left-over"),
        pytest.param(cut, r"mismatched \(1\)", id="shape"),
        pytest.param(round_to(torch.int32), r"mismatched \(1\)(.|\n)*torch.int32", id="int32"),
        pytest.param(round_to(torch.bool), r"mismatched \(1\)(.|\n)*torch.bool", id="bool"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_check_and_load_alike(folder, change, message):
    assert_refused(folder, change, message)


@pytest.mark.sample(4)
def test_a_weight_that_is_missing_is_refused_by_check_and_load_alike(any_folder):
    assert_refused(any_folder, drop, r"missing \(1\)")


def assert_refused(folder, change, message):
    change_weights(folder, change)
    report = detect_family(folder).check(open_checkpoint(folder))
    assert not report.is_loadable
    with pytest.raises(ModelError, match=rf"does not fit(.|\n)*{message}"):
        load_video_model(folder)


@pytest.mark.sample(4)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    change_weights(folder, spoil(value))
    with pytest.raises(ModelError, match="down_proj.weight holds NaN or infinity in float32"):
        load_video_model(folder)


@pytest.mark.sample(2)
def test_weights_that_overflow_in_the_wanted_dtype_are_refused(folder):
    change_weights(folder, spoil(1e6))
    load_video_model(folder)
    with pytest.raises(ModelError, match="down_proj.weight holds NaN or infinity in float16"):
        load_video_model(folder, dtype=torch.float16)


def test_an_index_that_leads_out_of_the_folder_is_refused(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="must be in a .safetensors file of this folder"):
        load_video_model(folder)


@pytest.mark.sample(2)
def test_every_weight_is_the_stored_one_whatever_its_place(folder):
    """In one file or in two, by its own name: nothing is drawn anew."""
    expected = load_video_model(folder).model.state_dict()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, own in parts.items():
        save_file({key: tensors[key] for key in own}, folder / name)
    weight_map = {key: name for name, own in parts.items() for key in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = load_video_model(folder).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in found.items())
    stored = {float(tensor.double().sum()) for tensor in tensors.values()}
    assert {float(tensor.double().sum()) for tensor in found.values()} <= stored


# ---- trust


def test_a_folders_own_code_is_not_run(folder, tmp_path, monkeypatch):
    """``auto_map`` would ask on stdin, and then import a module of the folder."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    trace = tmp_path / "trace"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    auto_map = {name: "evil.Evil" for name in ("AutoConfig", "AutoModel", "AutoProcessor")}
    change_json(folder / "config.json", auto_map=auto_map)
    change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    )
    try:
        load_video_model(folder)
    except ModelError:
        pass  # to refuse it is as good
    assert not trace.exists()


@pytest.mark.sample(4)
@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
def test_a_folder_does_not_choose_the_attention(folder, part, monkeypatch):
    """A kernel's name in a config makes transformers fetch it from the network and run it."""
    import transformers.modeling_utils as loading

    fetched = []
    monkeypatch.setattr(
        loading, "lazy_import_flash_attention", lambda name, **_: fetched.append(name)
    )
    file = folder / "config.json"
    named = {"_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel"}
    if part is None:
        change_json(file, **named)
    else:
        config = json.loads(file.read_text())
        config[part] |= named
        file.write_text(json.dumps(config))
    model = load_video_model(folder).model
    assert not fetched
    assert model.get_decoder().config._attn_implementation == "sdpa"


def test_quantized_weights_are_not_supported(folders, tmp_path):
    folder = Path(shutil.copytree(folders["llava_onevision"], tmp_path / "m"))
    change_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="quantized checkpoints are not supported"):
        load_video_model(folder)


# ---- options


def test_an_option_of_another_family_is_named(folders):
    with pytest.raises(ModelError, match="lora_alpha is for PLLaVA checkpoints, .* holds ST-LLM"):
        load_video_model(folders["st_llm"], lora_alpha=14)
    with pytest.raises(ModelError, match="qformer_tokenizer is for ST-LLM checkpoints"):
        load_video_model(folders["pllava"], qformer_tokenizer="vocab.txt")
    with pytest.raises(TypeError, match="unknown option 'lora' of a model; known ones: lora_alpha"):
        load_video_model(folders["pllava"], lora=14)


def test_an_option_that_is_needed(tmp_path):
    folder = Path(shutil.copytree(PARITY / "pllava_tiny_ckpt", tmp_path / "m"))
    write_pllava_tokenizer(folder, image_id=150, vocab_size=160)
    with pytest.raises(ModelError, match="lora_alpha is needed"):
        load_video_model(folder, lora_alpha=None)
    assert load_video_model(folder, lora_alpha=14).name == "m"


def test_a_vocabulary_from_elsewhere(folders, tmp_path):
    folder = Path(shutil.copytree(folders["st_llm"], tmp_path / "m"))
    vocabulary = (folder / "vocab.txt").rename(tmp_path / "words.txt")
    with pytest.raises(ModelError, match="vocab.txt: no such file"):
        load_video_model(folder)
    assert load_video_model(folder, qformer_tokenizer=vocabulary).name == "m"


@pytest.mark.parametrize("kind", ["nothing", "another-model"])
def test_what_is_no_checkpoint_is_one_line(tmp_path, kind):
    folder = tmp_path / "m"
    if kind == "another-model":
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ModelError) as caught:
        load_video_model(folder)
    assert len(str(caught.value).splitlines()) == 1 and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        pytest.param("gpu", "device must be a torch device, got 'gpu'", id="unknown"),
        pytest.param("cuda", "no GPU was found", id="absent"),
    ],
)
def test_a_device_that_is_not_there_is_named(tmp_path, monkeypatch, device, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match=said):
        load_video_model(tmp_path, device)


# ---- the families' other classes: one strict loader serves them all


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("qwen2_vl", "qwen2_vl"),
        ("qwen3_vl_moe", "qwen3_vl"),
        ("qwen3_5", "qwen3_5"),
        ("qwen3_5_moe", "qwen3_5"),
    ],
)
def test_other_classes_of_a_family_are_loaded_strictly(tmp_path, kind, family):
    folder = write_grid(tmp_path / kind, kind)
    expected = load_file(folder / "model.safetensors")
    model = load_video_model(folder)
    assert model.family is FAMILIES[family] and model.model.config.model_type == kind
    stored = {float(tensor.double().sum()) for tensor in expected.values()}
    if "moe" not in kind:  # experts are laid out anew
        found = {float(tensor.double().sum()) for tensor in model.model.state_dict().values()}
        assert found <= stored
    change_weights(folder, lambda tensors: tensors.pop(sorted(tensors)[len(tensors) // 2]))
    with pytest.raises(ModelError, match=r"does not fit(.|\n)*(missing \(1\)|are missing or)"):
        load_video_model(folder)
