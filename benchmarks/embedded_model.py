"""The trained model that comes with the package, and what goes with it.

``data/tiny_video_qa`` is a checkpoint folder like any other; its README.md is the model card. It
was written by ``prunevid train-tiny``, see ``train_tiny.py``. It answers questions about generated
clips (``datasets/synthetic.py``) and about nothing else.
"""

from __future__ import annotations

from pathlib import Path

from prunevid_kernels import PruneVidConfig

from .datasets import synthetic
from .model_inputs import VideoModel, load_video_model

EMBEDDED_MODEL = Path(__file__).parent / "data" / "tiny_video_qa"
FRAMES = synthetic.FRAMES
# Of five decoder layers, two see all merged tokens: later, the text has read what it needs.
SELECTION_LAYER = 1


def load_embedded_model(device: str = "cpu") -> VideoModel:
    """The embedded model on a device, in float32."""
    return load_video_model(EMBEDDED_MODEL, device)


def embedded_config() -> PruneVidConfig:
    """The method's defaults, at a layer that the embedded model has."""
    return PruneVidConfig(layer=SELECTION_LAYER)
