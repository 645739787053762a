"""Imported before torchvision where torchvision is a CUDA build and torch is not.

Some package indexes offer torchvision as a CUDA build only, whose compiled part does not load
beside a CPU build of torch. Its Python part then fails on import, because it attaches shape
functions to two operators that the compiled part would have declared. Declared here, they let it
pass. Neither is used by what transformers needs of torchvision: resizing and normalising.
"""

import importlib.util
from pathlib import Path

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")

# Read, not imported: importing it is what fails.
_spec = importlib.util.find_spec("torchvision")
_version = Path(_spec.origin).with_name("version.py") if _spec and _spec.origin else None
if _version and "+cu" in _version.read_text() and torch.version.cuda is None:
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
