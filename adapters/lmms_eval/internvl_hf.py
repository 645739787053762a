"""InternVL 3 and 3.5, pruned, as a model of lmms-eval.

    lmms-eval --model prunevid_internvl_hf --tasks videomme \\
        --model_args pretrained=DIR,num_frames=32,keep_ratio=0.4

It is lmms-eval's own ``internvl_hf``, which has the ``chat`` interface alone, around a pruned
model. A frame of a video comes to that model as an image, and no call of it tells the two apart;
the processor, which makes a prompt of both, does.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lmms_eval.models.chat.internvl_hf import InternVLHf

from .. import PromptVisuals, VideoSpan
from ..families import adapter_of
from .pruning import OPTIONS, PrunedClass, require_no_more


class PruneVidInternVlHf(PrunedClass, InternVLHf):
    """``prunevid_internvl_hf``: lmms-eval's ``internvl_hf`` with a pruned model.

    Args:
        **arguments: those of ``internvl_hf``, which takes any others in silence, and the fields of
            ``PruneVidConfig``.

    Raises:
        TypeError, ValueError: an argument that is neither; a pruning option or a model that cannot
            be.
    """

    processor: Any

    def __init__(self, **arguments: Any) -> None:
        known = tuple(inspect.signature(InternVLHf).parameters)[:-1]  # the last takes the rest
        require_no_more({n: v for n, v in arguments.items() if n not in (*known, *OPTIONS)}, known)
        super().__init__(**arguments)
        self.processor = _Remembering(self.processor)

    def _telling(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        adapter = adapter_of(self.model)
        if not adapter.brings_visuals(inputs):
            return nullcontext()
        (found,) = adapter.locate(self.model, inputs)
        said = PromptVisuals(videos_of(found.images, self.processor.kinds))
        return self.pruned.telling([said])


class _Remembering:
    """A processor that remembers, of the prompt that it made last, what its visuals are.

    Args:
        processor: transformers' own.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.kinds: list[str] = []

    def __call__(self, *, text: str, **arguments: Any) -> Any:
        names = {self._processor.image_token: "image", self._processor.video_token: "video"}
        tokens = "|".join(re.escape(token) for token in names)
        self.kinds = [names[token] for token in re.findall(tokens, text)]
        return self._processor(text=text, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


def videos_of(runs: Sequence[tuple[int, int]], kinds: Sequence[str]) -> tuple[VideoSpan, ...]:
    """The videos among the visuals of one prompt.

    Args:
        runs: (start, stop) of its placeholders: one for an image, one for each frame of a video.
        kinds: ``"image"`` or ``"video"``, of each visual in order. Videos have equally many frames.

    Raises:
        ValueError: the runs are not those of such visuals.
    """
    videos = kinds.count("video")
    frames, rest = divmod(len(runs) - kinds.count("image"), max(1, videos))
    if rest or (videos and frames < 1) or (not videos and frames):
        raise ValueError(
            f"a prompt of {kinds.count('image')} images and {videos} videos of equal length cannot "
            f"have {len(runs)} runs of visual tokens"
        )
    left, spans = list(runs), []
    for kind in kinds:
        own = [left.pop(0) for _ in range(frames if kind == "video" else 1)]
        if kind == "video":
            start, stop = own[0]
            spans.append(VideoSpan.apart([first for first, _ in own], stop - start))
    return tuple(spans)
