"""lmms-eval's own classes around a pruned model, beside the same checkpoint loaded by this project:
what reaches the decoder, the answers, and the model afterwards."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_folders
import torch

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import VideoSpan, load_video_model, prune

try:
    version("lmms_eval")
except PackageNotFoundError:
    pytest.skip(
        "lmms-eval has an environment of its own: scripts/test_lmms_eval.sh",
        allow_module_level=True,
    )

import transformers
from PIL import Image
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import load_video

from prunevid_kernels.adapters.lmms_eval.internvl_hf import videos_of

OPTIONS = {"layer": 2, "keep_ratio": 0.3, "min_cluster_tokens": 4}
WITHOUT_SELECTION = {"select": False, "min_cluster_tokens": 4}
# As published: a message is one string, or parts.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'video' %}VIDEO"
    "{% elif part.type == 'image' %}IMAGE"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MARKS = "<|vision_start|>{}<|vision_end|>"
GRID_TEMPLATE = TEMPLATE.replace("VIDEO", _MARKS.format("<|video_pad|>")).replace(
    "IMAGE", _MARKS.format("<|image_pad|>")
)
FRAMES_TEMPLATE = TEMPLATE.replace("VIDEO", "<video>\n").replace("IMAGE", "<IMG_CONTEXT>\n")


class Kind(NamedTuple):
    """A class of lmms-eval with a checkpoint for it."""

    name: str
    folder: str
    model: str  # class in transformers
    options: dict[str, Any]
    arguments: dict[str, Any] = {}
    is_simple: bool = False


_PIXELS = {"min_pixels": 16 * 64, "max_pixels": 96 * 96, "max_num_frames": 8}
KINDS = {
    f"{name}-{'simple' if is_simple else 'chat'}": Kind(
        f"prunevid_{kind}", name, model, options, _PIXELS, is_simple
    )
    for name, kind, model, options in (
        ("qwen2_5_vl", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", OPTIONS),
        ("qwen3_vl", "qwen3_vl", "Qwen3VLForConditionalGeneration", OPTIONS),
        ("qwen3_5", "qwen3_vl", "Qwen3_5ForConditionalGeneration", WITHOUT_SELECTION),
    )
    for is_simple in (True, False)
} | {
    "internvl-chat": Kind(
        "prunevid_internvl_hf",
        "internvl",
        "InternVLForConditionalGeneration",
        OPTIONS,
        {"num_frames": 6},
    )
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints with transformers' own processors beside them, as published."""
    root = tmp_path_factory.mktemp("own")
    written = {
        kind: tiny_folders.write_grid(root / kind, kind)
        for kind in ("qwen2_5_vl", "qwen3_vl", "qwen3_5")
    }
    for kind, folder in written.items():
        (folder / "video_preprocessor_config.json").unlink()
        is_old = kind == "qwen2_5_vl"
        video = transformers.Qwen2VLVideoProcessor if is_old else transformers.Qwen3VLVideoProcessor
        maker = transformers.Qwen2_5_VLProcessor if is_old else transformers.Qwen3VLProcessor
        patches = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
        size = {"shortest_edge": 16 * 64, "longest_edge": 96 * 96 * (1 if is_old else 8)}
        maker(
            transformers.Qwen2VLImageProcessor(**patches, size=size),
            transformers.AutoTokenizer.from_pretrained(folder),
            video(**patches, size=size),
            chat_template=GRID_TEMPLATE,
        ).save_pretrained(folder)
    folder = written["internvl"] = tiny_folders.write_internvl(root / "internvl")
    (folder / "preprocessor_config.json").unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    pixels = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(**pixels),
        tokenizer,
        transformers.InternVLVideoProcessor(**pixels),
        image_seq_length=16,
        chat_template=FRAMES_TEMPLATE,
    ).save_pretrained(folder)
    return written


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def calls(monkeypatch) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """What ``generate`` got and gave, whoever called it."""
    seen: list[tuple[dict[str, Any], torch.Tensor]] = []
    for name in {kind.model for kind in KINDS.values()}:
        model = getattr(transformers, name)

        def generate(self, *, _plain=model.generate, **inputs):
            output = _plain(self, **inputs)
            seen.append((dict(inputs), output))
            return output

        monkeypatch.setattr(model, "generate", generate)

    def read(self, videos, sample_indices_fn=None):
        """As by torchcodec, which the tests' environment does without."""
        if isinstance(videos, list):
            return tuple(zip(*(read(self, one, sample_indices_fn) for one in videos), strict=True))
        return load_video(videos, backend="pyav", sample_indices_fn=sample_indices_fn)

    monkeypatch.setattr(BaseVideoProcessor, "fetch_videos", read)
    return seen


def make(build, kind: Kind, folders, **options: Any) -> Any:
    arguments = {**kind.arguments, **options}
    return build(
        kind.name, pretrained=folders[kind.folder], force_simple=kind.is_simple, **arguments
    )


def test_answers_are_those_of_this_projects_own_model(build, evaluate, calls, folders, kind):
    """And fewer tokens run through the decoder."""
    lm = make(build, kind, folders, **kind.options)
    assert lm.is_simple is kind.is_simple
    lengths: list[int] = []
    hook = lm.model.get_decoder().register_forward_hook(
        lambda module, args, output: lengths.append(output.last_hidden_state.shape[1])
    )
    answers = evaluate(lm)
    hook.remove()
    assert len(calls) == len(answers) == 3
    prompts, totals = [length for length in lengths if length > 1], lm.pruned.totals
    own = load_video_model(folders[kind.folder], dtype=torch.bfloat16)
    before = merged = kept = 0
    with prune(own.model, PruneVidConfig(**kind.options)) as handle:
        for (inputs, output), length in zip(list(calls), prompts, strict=True):
            with own.telling(inputs):
                assert output.equal(own.model.generate(**inputs))
            call = handle.report.last
            dropped = call.tokens_before - call.tokens_kept
            assert length == inputs["input_ids"].shape[1] - dropped
            assert call.tokens_merged < call.tokens_before
            assert (call.tokens_kept < call.tokens_merged) == own.family.selects
            before, merged = before + call.tokens_before, merged + call.tokens_merged
            kept += call.tokens_kept
    assert (totals.videos, totals.tokens_before, totals.tokens_merged, totals.tokens_kept) == (
        *(3, before, merged, kept),
    )


def test_pruning_nothing_and_cleaning_up_are_lmms_evals_own_answers(
    build, evaluate, calls, folders, kind
):
    plain = build(
        kind.name.removeprefix("prunevid_"),
        pretrained=folders[kind.folder],
        device_map="cpu",
        force_simple=kind.is_simple,
        **kind.arguments,
    )
    expected = evaluate(plain)
    lm = make(build, kind, folders, merge=False, select=False)
    model = lm.model
    assert evaluate(lm) == expected  # cleans up at its end
    inputs, output = calls[-1]
    assert model.generate(**inputs).equal(output)
    assert not any(
        hook.__module__.startswith("prunevid_kernels")
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


@pytest.mark.parametrize("name", [n for n, kind in KINDS.items() if kind.folder != "internvl"])
def test_batches_are_pruned(build, evaluate, calls, folders, name):
    kind = KINDS[name]
    lm = make(build, kind, folders, batch_size=2, **kind.options)
    evaluate(lm)
    assert [len(inputs["input_ids"]) for inputs, _ in calls] == [2, 1]
    own = load_video_model(folders[kind.folder], dtype=torch.bfloat16).model
    for inputs, output in list(calls):
        with prune(own, PruneVidConfig(**kind.options)) as handle:
            assert output.equal(own.generate(**inputs))
        assert len(handle.report.last.videos) == len(output)
    assert lm.pruned.totals.videos == 3


def test_a_prompt_that_cannot_be_pruned_stops_the_run(build, evaluate, calls, folders, kind):
    """Qwen3.5's recurrent layers refuse at once; the others where no cache can be cut."""
    if kind.options is WITHOUT_SELECTION:
        with pytest.raises(ValueError, match="linear-attention .*select=False"):
            make(build, kind, folders, **OPTIONS)
        return
    lm = make(build, kind, folders, use_cache=False, **OPTIONS)
    with pytest.raises(BaseException, match="use_cache") as stopped:
        evaluate(lm)
    assert not isinstance(stopped.value, Exception)


def test_an_unknown_argument_is_named(build, folders, kind):
    with pytest.raises((TypeError, ValueError, AssertionError), match="keep_rate"):
        make(build, kind, folders, keep_rate=0.4)


@pytest.mark.parametrize(
    ("content", "videos", "tokens"),
    [
        pytest.param(["image", "video", "image"], 1, 96, id="images-beside-a-video"),
        pytest.param(["video", "video"], 2, 192, id="two-videos"),
        pytest.param(["image"], 0, 0, id="image"),
        pytest.param([], 0, 0, id="text"),
    ],
)
def test_internvl_is_told_which_images_are_a_video(
    build, ask, workplace, calls, folders, content, videos, tokens
):
    lm = make(build, KINDS["internvl-chat"], folders, **OPTIONS)
    urls = {"video": str(workplace / "0.mp4"), "image": Image.new("RGB", (40, 60), "red")}
    parts = [{"type": kind, "url": urls[kind]} for kind in content]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": "What is blue?"}]}
    question = ask(lm, 0, {}, kind="generate_until")
    context, _, _, *rest = question.arguments
    question.arguments = (context, lambda row: [message], {"max_new_tokens": 3}, *rest)
    lm.generate_until([question])
    assert len(calls) == 1
    assert (lm.pruned.totals.videos, lm.pruned.totals.tokens_before) == (videos, tokens)


def test_videos_and_images_of_a_prompt_are_told_apart():
    runs = [(2, 6), (9, 25), (30, 34), (40, 44), (50, 54), (60, 64), (70, 74)]
    assert videos_of(runs, ["image", "image", "video"]) == (
        VideoSpan.apart([30, 40, 50, 60, 70], 4),
    )
    assert videos_of(runs, ["video", "image", "image", "image", "video"]) == (
        VideoSpan.apart([2, 9], 4),
        VideoSpan.apart([60, 70], 4),
    )
    assert videos_of(runs[:2], ["image", "image"]) == () == videos_of([], [])
    for wrong in (["image"], ["video", "video"], ["image"] * 9, ["video"] * 9):
        with pytest.raises(ValueError, match="runs of visual tokens"):
            videos_of(runs, wrong)
