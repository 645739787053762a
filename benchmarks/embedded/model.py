"""The trained models that come with the package, and what goes with them.

``data/tiny_video_qa`` is a checkpoint folder like any other; its README.md is the model card. It
was written by ``prunevid train-tiny``, see ``train_tiny/``. It answers questions about generated
clips (``datasets/synthetic.py``) and about nothing else. ``data/tiny_video_qa_hard`` is another
one, for the harder clips (``datasets/synthetic_hard.py``), which only ``prunevid eval`` asks. One
of the plain clips, which the first was not trained on, comes as a video file that was written by

    python -m prunevid_kernels.benchmarks.embedded.model FILE
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from prunevid_kernels.adapters import VideoModel, load_video_model

from ..datasets import drawing, synthetic

EMBEDDED_MODEL = Path(__file__).parent / "data" / "tiny_video_qa"
HARD_MODEL = EMBEDDED_MODEL.parent / "tiny_video_qa_hard"
FRAMES = synthetic.FRAMES
# Of five decoder layers, two see all merged tokens: later, the text has read what it needs.
SELECTION_LAYER = 1

SAMPLE_CLIP = EMBEDDED_MODEL.parent / "sample_synthetic.mp4"
SAMPLE_INDEX = 6  # of the held-out clips: two scenes, six shapes
SAMPLE_QUESTION = "Which way does the moving shape go?"
SAMPLE_ANSWER = "left"
_SAMPLE_SCALE = 4  # pixels of the file for a pixel of the clip, so that a person can see it
_SAMPLE_FPS = 8  # each frame of the clip is shown for one second


NAME = "embedded tiny video QA"
HARD_NAME = "embedded tiny video QA, hard"
NAMES = (NAME, HARD_NAME)
LIMITS = "a tiny model, trained on generated clips: it knows nothing about other videos"


_OF_BENCHMARK = {"synthetic_hard": (HARD_MODEL, HARD_NAME)}
_OF_BENCHMARK["synthetic_long"] = _OF_BENCHMARK["synthetic_hard"]


def load_embedded_model(
    device: str = "cpu", dtype: torch.dtype = torch.float32, *, benchmark: str | None = None
) -> VideoModel:
    """An embedded model on a device: the one that was trained for a benchmark of generated clips,
    for everything else that of ``synthetic``."""
    folder, name = _OF_BENCHMARK.get(benchmark or "", (EMBEDDED_MODEL, NAME))
    model = load_video_model(folder, device, dtype=dtype)
    return replace(model, name=name, limits=LIMITS, selection_layer=SELECTION_LAYER)


def write_sample_clip(path: Path) -> None:
    """Encode the sample clip as H.264 (needs PyAV, which has an encoder; decord has none)."""
    import av

    clip = synthetic.make_clip("held_out", SAMPLE_INDEX)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        options = {"crf": "18", "threads": "1"}
        stream = container.add_stream("libx264", rate=_SAMPLE_FPS, options=options)
        stream.width = stream.height = drawing.SIZE_PX * _SAMPLE_SCALE
        stream.pix_fmt = "yuv420p"
        for frame in clip.frames:
            large = frame.repeat(_SAMPLE_SCALE, axis=0).repeat(_SAMPLE_SCALE, axis=1)
            for _ in range(_SAMPLE_FPS):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    write_sample_clip(Path(sys.argv[1]))
