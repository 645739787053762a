"""The examples run as they are, on the embedded model, and say what they promise."""

from __future__ import annotations

import json
import re
import runpy
import sys
from functools import cache

import pytest
from paths import ROOT
from tiny_folders import write_llava_next_video

from prunevid_kernels import adapters
from prunevid_kernels.adapters import load_video_model
from prunevid_kernels.adapters.methods.registry import find_method
from prunevid_kernels.benchmarks.embedded import EMBEDDED_MODEL, SAMPLE_ANSWER, SAMPLE_CLIP

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "walkthrough.ipynb"


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """The scripts share one embedded model."""
    monkeypatch.setattr(adapters, "load_video_model", load)


@cache
def load(folder, device="cpu"):
    return load_video_model(folder, device)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process; what it printed."""

    def run_script(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_one_video(run):
    lines = run("one_video.py", "--model", str(EMBEDDED_MODEL)).splitlines()
    assert lines[:2] == ["8 of 64 frames", f"all 288 tokens: {SAMPLE_ANSWER}"]
    kept = re.fullmatch(rf"(\d+) tokens kept: {SAMPLE_ANSWER}", lines[2])
    assert kept and int(kept[1]) < 288 / 10
    assert lines[3].startswith("1 video(s) in 1 prompt: 288 visual tokens")


def test_a_batch_answers_all(run):
    together = run("batch.py").splitlines()
    assert [line.partition("? ")[2].split()[0] for line in together] == [
        "triangle",
        "bottom",
        "red",
    ]
    counts = [re.search(r"\((\d+) of (\d+) tokens\)", line) for line in together]
    assert all(count and int(count[1]) < int(count[2]) / 5 for count in counts)


def test_a_batch_of_files_needs_a_question(run, capsys):
    with pytest.raises(SystemExit):
        run("batch.py", str(SAMPLE_CLIP))
    assert "say what to ask with --question" in capsys.readouterr().err
    asked = "Which way does the moving shape go?"
    lines = run("batch.py", "--question", asked, str(SAMPLE_CLIP), str(SAMPLE_CLIP)).splitlines()
    assert len(lines) == 2 and lines[0] == lines[1] and f"? {SAMPLE_ANSWER} (" in lines[0]


def test_an_own_decoder_loop_does_what_the_adapter_does(monkeypatch, capsys):
    """Not the word alone: every token that the two keep, and every token that they say."""
    names = runpy.run_path(str(EXAMPLES / "own_decoder_loop.py"))
    model = names["load_video_model"](EMBEDDED_MODEL)
    config = names["PruneVidConfig"](layer=2, keep_ratio=0.3)
    chosen = []
    select = names["select_tokens"]
    # A function's globals are not the dictionary that run_path gives back.
    scope = names["answer"].__wrapped__.__globals__
    monkeypatch.setitem(
        scope, "select_tokens", lambda *given: chosen.append(select(*given)) or chosen[-1]
    )
    never = model.model.get_output_embeddings().out_features  # no such token
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", never)
    said = []
    decode = model.tokenizer.decode
    monkeypatch.setattr(
        model.tokenizer, "decode", lambda ids, **how: said.append(list(ids)) or decode(ids, **how)
    )
    question = "What color is the moving shape?"
    prompt = model.encode(model.read_video(SAMPLE_CLIP), question)
    own = names["answer"](model, prompt, config, 6)
    reply = model.ask(SAMPLE_CLIP, question, config, max_new_tokens=6)
    assert chosen[0].tolist() == reply.report.videos[0].kept.tolist()
    assert own == reply.answer and said[0] == said[1] and len(said[0]) == 6


def test_the_own_loop_runs_from_the_command_line(run):
    lines = run("own_decoder_loop.py").splitlines()
    assert re.fullmatch(r"288 visual tokens -> \d+ merged -> \d+ kept", lines[0])
    assert lines[1:] == [f"own loop: {SAMPLE_ANSWER}", f"adapter: {SAMPLE_ANSWER}"]


def test_the_own_loop_is_of_one_decoder(run, capsys, tmp_path):
    with pytest.raises(SystemExit):
        run("own_decoder_loop.py", "--model", str(write_llava_next_video(tmp_path / "next")))
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("this loop is LLaVA-OneVision's, next is LLaVA-NeXT-Video")


def test_a_method_is_added(run):
    lines = run("add_a_method.py").splitlines()
    assert lines[:2] == [f"all tokens: {SAMPLE_ANSWER}", f"prunevid: {SAMPLE_ANSWER}"]
    assert [line.partition(":")[0] for line in lines[2:]] == [
        f"newest, {count} tokens" for count in (144, 72, 28)
    ]


def test_the_added_method_is_found_by_its_file():
    method = find_method(f"{EXAMPLES / 'add_a_method.py'}:Newest")
    assert method.defaults == {"ratio": 0.25}


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_the_notebook_is_stripped_and_well_formed():
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in cells()}) == len(cells())
    for cell in cells():
        code = cell["cell_type"] == "code"
        expected = {"cell_type", "id", "metadata", "source"}
        assert set(cell) == expected | ({"outputs", "execution_count"} if code else set())
        assert not code or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_the_notebook_runs_from_the_first_cell_to_the_last(capsys):
    names: dict = {}
    for cell in cells():
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}:{cell['id']}", "exec"), names)
    assert names["whole"].answer == names["pruned"].answer == SAMPLE_ANSWER
    assert names["answers"][0.4] == SAMPLE_ANSWER
    assert names["merged"].layout.num_merged == 28  # a budget of 0.1, of 288


@pytest.mark.parametrize("wrong", ["model", "video"])
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_a_wrong_path_is_one_line(run, capsys, tmp_path, name, wrong):
    path = str(tmp_path / "nothing.mp4")
    options = ["--question", "?"] if wrong == "video" and name == "batch.py" else []
    option = [path] if options else [f"--{wrong}", path]
    with pytest.raises(SystemExit) as stopped:
        run(name, *options, *option)
    error = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2
    assert error.startswith("error: ") and "nothing.mp4" in error and "no such" in error
