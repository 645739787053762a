"""``prunevid_pllava`` and ``prunevid_st_llm`` in the real lmms-eval, beside the same models pruned
by hand."""

from __future__ import annotations

import shutil
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_folders
import torch
from PIL import Image
from tiny_pllava import PUBLISHED

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import PruneReport, prune
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.families.pllava.model import Pllava
from prunevid_kernels.adapters.families.pllava.processor import PllavaProcessor
from prunevid_kernels.adapters.families.st_llm.model import StLlm
from prunevid_kernels.adapters.families.st_llm.processor import StLlmProcessor
from prunevid_kernels.adapters.video.reader import VideoError, read_video
from prunevid_kernels.adapters.video.sampling import frame_indices
from prunevid_kernels.benchmarks.accuracy.protocol import protocol
from prunevid_kernels.benchmarks.datasets.frames import take_frames
from prunevid_kernels.benchmarks.datasets.sample import VideoSource

try:
    version("lmms_eval")
except PackageNotFoundError:
    pytest.skip(
        "lmms-eval has an environment of its own: scripts/test_lmms_eval.sh",
        allow_module_level=True,
    )

from datasets import load_from_disk

FRAMES, NEW_TOKENS = 6, 6
OPTIONS = {"layer": 1, "keep_ratio": 0.3, "cluster_ratio": 0.4}


@pytest.fixture(scope="session")
def pllava_folder(tmp_path_factory) -> Path:
    return tiny_folders.write_pllava(tmp_path_factory.mktemp("pllava"))


@pytest.fixture(scope="session")
def st_llm_folder(tmp_path_factory) -> Path:
    return tiny_folders.write_st_llm(tmp_path_factory.mktemp("st_llm"))


@pytest.fixture(params=["pllava", "st_llm"])
def case(request) -> dict[str, Any]:
    folder = request.getfixturevalue(f"{request.param}_folder")
    model, processor = {"pllava": (Pllava, PllavaProcessor), "st_llm": (StLlm, StLlmProcessor)}[
        request.param
    ]
    return {
        "name": f"prunevid_{request.param}",
        "rule": FAMILIES[request.param].sampling,
        "arguments": {"pretrained": folder, "max_frames_num": FRAMES},
        "model": model.from_pretrained(folder),
        "processor": processor.from_pretrained(folder),
    }


def inputs_of(case, row: dict[str, Any], **texts: str) -> dict[str, torch.Tensor]:
    rule = partial(frame_indices, n=FRAMES, rule=case["rule"])
    return case["processor"](
        read_video(row["video"], indices=rule).frames, row["question"], **texts
    )


def answers_by_hand(
    case, workplace: Path, options: dict[str, Any], **texts: str
) -> tuple[list[str], PruneReport]:
    answers = []
    with prune(case["model"], PruneVidConfig(**options)) as handle:
        for row in load_from_disk(workplace / "clips")["test"]:
            inputs = inputs_of(case, row, **texts)
            output = case["model"].generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            new = output[0, inputs["input_ids"].shape[1] :]
            answer = case["processor"].tokenizer.decode(new, skip_special_tokens=True)
            answers.append(answer.split("###")[0].strip())
    return answers, handle.report


@pytest.mark.parametrize("texts", [{}, {"system": "Look", "answer_prefix": "red"}], ids=len)
def test_answers_are_those_of_the_model_pruned_by_hand(build, evaluate, workplace, case, texts):
    expected, report = answers_by_hand(case, workplace, OPTIONS, **texts)
    arguments = {name.replace("system", "system_prompt"): text for name, text in texts.items()}
    lm = build(case["name"], **case["arguments"], **arguments, **OPTIONS)
    assert evaluate(lm) == expected
    calls, totals = report.calls, lm.pruned.totals
    assert totals.videos == len(calls) == 3
    assert totals.tokens_before == sum(call.tokens_before for call in calls)
    assert totals.tokens_merged == sum(call.tokens_merged for call in calls)
    assert totals.tokens_kept == sum(call.tokens_kept for call in calls)
    assert totals.tokens_kept < totals.tokens_merged < totals.tokens_before


def test_likelihood_of_an_answer(build, ask, workplace, case):
    """One forward over prompt and answer gives what running the answer after the prompt gives."""
    row = load_from_disk(workplace / "clips")["test"][1]
    whole, prompt = inputs_of(case, row, answer_prefix="red"), inputs_of(case, row)
    ids, shorter = whole["input_ids"][0], prompt["input_ids"][0]
    same = next(i for i in range(len(ids)) if i == len(shorter) or ids[i] != shorter[i])
    count = len(ids) - same
    with prune(case["model"], PruneVidConfig(**OPTIONS)), torch.no_grad():
        logits = case["model"](**whole, logits_to_keep=count + 1).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, ids[same:])
    lm = build(case["name"], **case["arguments"], **OPTIONS)
    ((loss, is_greedy),) = lm.loglikelihood([ask(lm, 1, "red", kind="loglikelihood")])
    assert loss == pytest.approx(float(expected), abs=1e-4)
    assert is_greedy is bool((logits.argmax(-1) == ids[same:]).all())
    assert lm.pruned.totals.videos == 1
    with pytest.raises(ValueError, match="must not be empty"):
        lm.loglikelihood([ask(lm, 1, "", kind="loglikelihood")])


def test_an_image_is_a_video_of_one_frame(build, ask, case):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    lm = build(case["name"], **case["arguments"], **OPTIONS)
    question = ask(lm, 0, {"max_new_tokens": 3}, kind="generate_until")
    with_picture = question.arguments[:2] + (lambda row: [Image.fromarray(picture)],)
    question.arguments = with_picture + question.arguments[3:]
    (answer,) = lm.generate_until([question])
    assert isinstance(answer, str)
    assert lm.pruned.totals.videos == 1


def test_a_benchmarks_frames_are_those_of_prunevid_eval(build, workplace, case):
    """A clip of 20 frames, of which the rules take other ones."""
    lm = build(case["name"], **case["arguments"], **OPTIONS)
    family = FAMILIES[case["name"].removeprefix("prunevid_")]
    clip = workplace / "0.mp4"
    for task, benchmark in (("mvbench_action_sequence", "mvbench"), ("local_clips", "egoschema")):
        rule = protocol(family, benchmark).sampling
        expected = take_frames(VideoSource(clip), FRAMES, rule).frames
        assert np.array_equal(lm._frames(task, str(clip)), expected)


def test_a_folder_of_another_family_is_refused(build, pllava_folder, st_llm_folder):
    with pytest.raises(ValueError, match="must hold ST-LLM, got PLLaVA"):
        build("prunevid_st_llm", pretrained=pllava_folder)
    with pytest.raises(ValueError, match="must hold PLLaVA, got ST-LLM"):
        build("prunevid_pllava", pretrained=st_llm_folder)


def test_answers_end_before_the_tasks_own_ends(build, ask, case):
    lm = build(case["name"], **case["arguments"], **OPTIONS)
    (answer,) = lm.generate_until([ask(lm, 0, {"max_new_tokens": 8}, kind="generate_until")])
    end = answer[2]
    options = {"max_new_tokens": 8, "until": [end, "never"]}
    (cut,) = lm.generate_until([ask(lm, 0, options, kind="generate_until")])
    assert cut == answer[: answer.index(end)].strip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"keep_ratio": 2}, r"keep_ratio must be in \(0, 1\], got 2", id="range"),
        pytest.param({"layer": 99}, "layer", id="too-deep"),
        pytest.param({"keep_rate": 0.4}, "unknown model argument 'keep_rate'; known", id="unknown"),
        pytest.param({"dtype": "int9"}, "dtype must be 'auto' or .*, got 'int9'", id="dtype"),
        pytest.param({"batch_size": 4}, "batch_size must be 1, got 4", id="batch"),
    ],
)
def test_a_wrong_argument_is_named(build, case, options, message):
    with pytest.raises(ValueError, match=message):
        build(case["name"], **case["arguments"], **options)


def test_pllava_in_the_published_layout(build, evaluate, workplace, tmp_path):
    """LoRA unmerged, so ``lora_alpha`` has to reach the loader, and changes answers."""
    shutil.copytree(PUBLISHED, tmp_path, dirs_exist_ok=True)
    tiny_folders.write_pllava_tokenizer(tmp_path, image_id=150, vocab_size=160)
    processor = PllavaProcessor.from_pretrained(tmp_path)
    options = {**OPTIONS, "cluster_ratio": 0.2, "min_cluster_tokens": 4}
    answers = {}
    for alpha in (0, 14):
        model = Pllava.from_pretrained(tmp_path, lora_alpha=alpha)
        case = {"rule": "half_segments", "processor": processor, "model": model}
        expected, _ = answers_by_hand(case, workplace, options)
        arguments = {"pretrained": tmp_path, "max_frames_num": FRAMES, "lora_alpha": alpha}
        answers[alpha] = evaluate(build("prunevid_pllava", **arguments, **options))
        assert answers[alpha] == expected
    assert answers[0] != answers[14]
    with pytest.raises(ValueError, match="lora_alpha"):
        build("prunevid_pllava", pretrained=tmp_path)


def test_an_argument_of_one_model_alone_reaches_it(build, pllava_folder, st_llm_folder, tmp_path):
    with pytest.raises(ValueError, match="lora_alpha"):  # the weights are merged
        build("prunevid_pllava", pretrained=pllava_folder, lora_alpha=14)
    with pytest.raises(ValueError, match="unknown model argument 'lora_alpha'"):
        build("prunevid_st_llm", pretrained=st_llm_folder, lora_alpha=14)
    with pytest.raises(ValueError, match="none.txt: no such file"):
        build("prunevid_st_llm", pretrained=st_llm_folder, qformer_tokenizer=tmp_path / "none.txt")


def test_a_prompt_that_fails_is_no_empty_answer(build, ask, case, tmp_path):
    lm = build(case["name"], **case["arguments"], **OPTIONS)
    question = ask(lm, 0, {}, kind="generate_until")
    for visuals, error, message in (
        ([str(tmp_path / "none.mp4")], VideoError, "none.mp4: no such file"),
        ([], ValueError, "one video or image, got 0"),
    ):
        visual = (lambda row, visuals=visuals: visuals,)
        question.arguments = question.arguments[:2] + visual + question.arguments[3:]
        with pytest.raises(error, match=message):
            lm.generate_until([question])
