"""The trained model that comes with the package, and what goes with it.

``data/tiny_video_qa`` is a checkpoint folder like any other; its README.md is the model card. It
was written by ``prunevid train-tiny``, see ``train_tiny/``. It answers questions about generated
clips (``datasets/synthetic.py``) and about nothing else. One of those clips, which it was not
trained on, comes as a video file that was written by

    python -m prunevid_kernels.benchmarks.embedded.model FILE
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from prunevid_kernels.adapters import VideoModel, load_video_model

from ..datasets import synthetic

EMBEDDED_MODEL = Path(__file__).parent / "data" / "tiny_video_qa"
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
LIMITS = "a tiny model, trained on generated clips: it knows nothing about other videos"


def load_embedded_model(device: str = "cpu", dtype: torch.dtype = torch.float32) -> VideoModel:
    """The embedded model on a device."""
    model = load_video_model(EMBEDDED_MODEL, device, dtype=dtype)
    return replace(model, name=NAME, limits=LIMITS)


def write_sample_clip(path: Path) -> None:
    """Encode the sample clip as H.264 (needs PyAV, which has an encoder; decord has none)."""
    import av

    clip = synthetic.make_clip("held_out", SAMPLE_INDEX)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        options = {"crf": "18", "threads": "1"}
        stream = container.add_stream("libx264", rate=_SAMPLE_FPS, options=options)
        stream.width = stream.height = synthetic.SIZE_PX * _SAMPLE_SCALE
        stream.pix_fmt = "yuv420p"
        for frame in clip.frames:
            large = frame.repeat(_SAMPLE_SCALE, axis=0).repeat(_SAMPLE_SCALE, axis=1)
            for _ in range(_SAMPLE_FPS):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    write_sample_clip(Path(sys.argv[1]))
