"""Generated clips, a local task about them and a tiny checkpoint, for the real lmms-eval."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torchvision_schemas  # noqa: F401  before anything imports torchvision
from tiny_folders import write_llava_onevision
from tiny_models import IMAGE_SIZE_PX, PATCH_PX

from prunevid_kernels.benchmarks.datasets.synthetic import make_clip

TASKS = Path(__file__).parent / "tasks"
QUESTIONS = ("Where does the red circle go?", "What is blue?", "When is the scene dark?")
# As the tokenizers of published checkpoints have it, for messages that are one string.
STRING_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_clip(path: Path, index: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        for frame in make_clip("train", index, num_frames=20).frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder with ``tasks/``, their data set ``clips/`` and the video files."""
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(TASKS, folder / "tasks")
    rows = []
    for index, question in enumerate(QUESTIONS):
        video = folder / f"{index}.mp4"
        write_clip(video, index)
        rows.append({"video": str(video), "question": question, "answer": "red"})
    DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(folder / "clips")
    return folder


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory) -> Path:
    """The tiny LLaVA-OneVision with transformers' own processor beside it, as published."""
    from transformers import (
        AutoTokenizer,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    folder = write_llava_onevision(tmp_path_factory.mktemp("llava"))
    (folder / "chat_template.jinja").write_text(STRING_TEMPLATE)
    pixels = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX},
    }
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            **pixels, image_grid_pinpoints=[[IMAGE_SIZE_PX, IMAGE_SIZE_PX]]
        ),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        video_processor=LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=(IMAGE_SIZE_PX // PATCH_PX) ** 2,
        vision_feature_select_strategy="full",
        chat_template=STRING_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def build():
    """``build(model, **arguments)``: a model as lmms-eval makes it."""
    from lmms_eval.models import get_model

    def build(model: str, **arguments: Any) -> Any:
        batch_size = arguments.pop("batch_size", 1)
        force_simple = arguments.pop("force_simple", False)
        text = ",".join(f"{name}={value}" for name, value in arguments.items())
        more = {"device": "cpu", "batch_size": batch_size}
        return get_model(model, force_simple).create_from_arg_string(text, more)

    return build


@pytest.fixture
def evaluate(workplace, monkeypatch):
    """``evaluate(lm)``: its answer to each question of the local task, as lmms-eval gets them."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    monkeypatch.chdir(workplace)
    tasks = TaskManager(include_path=str(workplace / "tasks"), include_defaults=False)

    def evaluate(lm: Any) -> list[str]:
        results = simple_evaluate(
            model=lm, tasks=["local_clips"], task_manager=tasks, log_samples=True, bootstrap_iters=0
        )
        samples = sorted(results["samples"]["local_clips"], key=lambda sample: sample["doc_id"])
        return [sample["resps"][0][0] for sample in samples]

    return evaluate


@pytest.fixture
def ask(workplace):
    """``ask(lm, number, argument, kind=...)``: a request of lmms-eval about a question of the
    task, with the argument that such a request has."""
    from datasets import load_from_disk
    from lmms_eval.api.instance import Instance

    def ask(lm: Any, number: int, argument: Any, *, kind: str) -> Any:
        lm.task_dict["local_clips"] = load_from_disk(workplace / "clips")
        question = lm.task_dict["local_clips"]["test"][number]["question"]
        arguments = (question, argument, lambda row: [row["video"]], number, "local_clips", "test")
        metadata = {"task": "local_clips", "doc_id": number, "repeats": 1}
        return Instance(kind, arguments, 0, metadata)

    return ask
