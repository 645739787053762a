"""``prunevid_llava_onevision`` in the real lmms-eval, beside the same model pruned by hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_folders import LLAVA_TEMPLATE
from tiny_models import TOKENS_PER_FRAME

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune
from prunevid_kernels.adapters.video.reader import read_video

try:
    version("lmms_eval")
except PackageNotFoundError:
    pytest.skip(
        "lmms-eval has an environment of its own: scripts/test_lmms_eval.sh",
        allow_module_level=True,
    )

from datasets import load_from_disk
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

NAME = "prunevid_llava_onevision"
FRAMES, NEW_TOKENS = 4, 6
OPTIONS = {"layer": 2, "keep_ratio": 0.3}


@pytest.fixture
def by_hand(llava_folder, workplace) -> SimpleNamespace:
    """The checkpoint in transformers, and its inputs for each question of the task."""
    processor = AutoProcessor.from_pretrained(llava_folder)
    inputs = []
    for row in load_from_disk(workplace / "clips")["test"]:
        text = f"<|im_start|>user\n<video>\n{row['question']}<|im_end|>\n<|im_start|>assistant\n"
        frames = read_video(row["video"], FRAMES).frames
        inputs.append(processor(text=text, videos=[frames], return_tensors="pt"))
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(llava_folder)
    return SimpleNamespace(model=model, tokenizer=processor.tokenizer, inputs=inputs)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(OPTIONS, id="both-steps"),
        pytest.param({"merge": False, "layer": 0, "selection": "global"}, id="select-alone"),
        pytest.param({"budget": 40, "select": False}, id="budget"),
        pytest.param({"merge": False, "select": False}, id="neither"),
    ],
)
def test_answers_are_those_of_the_model_pruned_by_hand(
    build, evaluate, by_hand, llava_folder, options
):
    expected = []
    with prune(by_hand.model, PruneVidConfig(**options)) as handle:
        for inputs in by_hand.inputs:
            output = by_hand.model.generate(**inputs, max_new_tokens=NEW_TOKENS)
            new = output[:, inputs["input_ids"].shape[1] :]
            expected += by_hand.tokenizer.batch_decode(new, skip_special_tokens=True)
    lm = build(NAME, pretrained=llava_folder, max_frames_num=FRAMES, **options)
    assert evaluate(lm) == expected
    assert len(set(expected)) == len(expected)
    calls, totals = handle.report.calls, lm.pruned.totals
    assert totals.videos == len(calls) == 3
    assert (
        totals.tokens_before
        == 3 * FRAMES * TOKENS_PER_FRAME
        == sum(call.tokens_before for call in calls)
    )
    assert totals.tokens_merged == sum(call.tokens_merged for call in calls)
    assert totals.tokens_kept == sum(call.tokens_kept for call in calls)
    if options == OPTIONS:
        assert totals.tokens_kept < totals.tokens_merged < totals.tokens_before


def test_the_command(workplace, llava_folder, tmp_path):
    """``lmms-eval --model ... --model_args ...`` in a process of its own."""
    code = "import torchvision_schemas; from lmms_eval.cli.dispatch import main; main()"
    arguments = f"pretrained={llava_folder},max_frames_num={FRAMES},layer=2,keep_ratio=0.3"
    command = [sys.executable, "-c", code, "--model", NAME, "--model_args", arguments]
    command += [
        "--tasks",
        "local_clips",
        "--include_path",
        str(workplace / "tasks"),
        "--device",
        "cpu",
    ]
    command += ["--batch_size", "1", "--output_path", str(tmp_path), "--log_samples"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}
    done = subprocess.run(command, cwd=workplace, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "prunevid: 3 videos: 192 visual tokens -> " in said, said
    (results,) = tmp_path.rglob("*_results.json")
    assert "right,none" in json.loads(results.read_text())["results"]["local_clips"]


@pytest.mark.parametrize("pruning", [True, False], ids=["pruned", "not-pruned"])
@pytest.mark.parametrize("answer", ["red", "blue circle"])
def test_likelihood_of_an_answer(build, ask, by_hand, llava_folder, pruning, answer):
    """One forward over prompt and answer gives what decoding the answer gives."""
    options = OPTIONS if pruning else {"merge": False, "select": False}
    ids = by_hand.tokenizer(f"{answer}<|im_end|>\n", return_tensors="pt").input_ids
    inputs = dict(by_hand.inputs[1])
    for name, more in (("input_ids", ids), ("attention_mask", torch.ones_like(ids))):
        inputs[name] = torch.cat((inputs[name], more), dim=1)
    with prune(by_hand.model, PruneVidConfig(**options)), torch.no_grad():
        logits = by_hand.model(**inputs, logits_to_keep=ids.shape[1] + 1).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, ids[0])

    lm = build(NAME, pretrained=llava_folder, max_frames_num=FRAMES, **options)
    target = answer if pruning else lambda row: answer  # lmms-eval gives either
    ((loss, is_greedy),) = lm.loglikelihood([ask(lm, 1, target, kind="loglikelihood")])
    assert loss == pytest.approx(float(expected), abs=1e-4)
    assert is_greedy is bool((logits.argmax(-1) == ids[0]).all())


def test_a_template_that_wants_messages_in_parts_renders_the_same(
    build, evaluate, llava_folder, tmp_path
):
    shutil.copytree(llava_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(LLAVA_TEMPLATE)
    answers = [
        evaluate(build(NAME, pretrained=folder, max_frames_num=FRAMES, **OPTIONS))
        for folder in (llava_folder, tmp_path)
    ]
    assert answers[0] == answers[1]
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].role }}")
    with pytest.raises(ValueError, match="chat_template: .* leaves out the text"):
        build(NAME, pretrained=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"keep_ratio": 2}, r"keep_ratio must be in \(0, 1\], got 2", id="range"),
        pytest.param({"layer": "one"}, "layer must be an integer >= 0, got 'one'", id="type"),
        pytest.param({"layer": 99}, "layer", id="too-deep"),
        pytest.param({"keep_rate": 0.4}, "keep_rate", id="unknown"),
    ],
)
def test_a_wrong_option_is_named(build, llava_folder, options, message):
    with pytest.raises((TypeError, ValueError, AssertionError), match=message):
        build(NAME, pretrained=llava_folder, **options)


def test_a_prompt_that_fails_is_no_empty_answer(build, evaluate, ask, llava_folder, tmp_path):
    lm = build(NAME, pretrained=llava_folder, max_frames_num=FRAMES, use_cache=False, **OPTIONS)
    with pytest.raises(BaseException, match="use_cache") as stopped:
        evaluate(lm)
    assert not isinstance(stopped.value, Exception)

    lm = build(NAME, pretrained=llava_folder, **OPTIONS)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    question = ask(lm, 0, {}, kind="generate_until")
    broken_video = (lambda row: [str(broken)],)
    question.arguments = question.arguments[:2] + broken_video + question.arguments[3:]
    with pytest.raises(BaseException, match="broken.mp4"):
        lm.generate_until([question])
