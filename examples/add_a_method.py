"""A pruning method of your own, beside PruneVid on the same question.

    python examples/add_a_method.py
    prunevid eval synthetic --method full,prunevid,examples/add_a_method.py:Newest --retain 0.2

A method is one class: its fields are its options, the decorator says what it does. The engine takes
care of masks, positions, caches, batches and the report. docs/methods.md lists what else a method
may look at.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from prunevid_kernels import MergedVideo, PruneVidConfig
from prunevid_kernels.adapters import (
    ModelError,
    PruningMethod,
    load_video_model,
    pruning_method,
    subset_video,
)
from prunevid_kernels.adapters.video.reader import VideoError
from prunevid_kernels.benchmarks.embedded import EMBEDDED_MODEL, SAMPLE_CLIP, SAMPLE_QUESTION


@pruning_method(
    "the tokens that differ most from the frame before", changes=("drops",), knob="ratio"
)
@dataclass(eq=False)
class Newest(PruningMethod):
    """Keeps what is new: the whole first frame competes, as nothing came before it."""

    ratio: float = 0.25  # share of a video's tokens that is kept

    name = "newest"
    prunes = True  # warn where nothing was dropped

    def merge_video(self, features: Tensor) -> MergedVideo:  # [T, N, C]
        tokens = features.float()
        change = tokens.norm(dim=-1)  # [T, N]
        change[1:] = (tokens[1:] - tokens[:-1]).norm(dim=-1)
        count = max(1, int(change.numel() * self.ratio))
        kept = change.flatten().topk(count).indices
        return subset_video(features, kept.sort().values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="checkpoint folder")
    parser.add_argument("--video", type=Path, default=SAMPLE_CLIP, help="file or folder of images")
    parser.add_argument("--question", default=SAMPLE_QUESTION)
    arguments = parser.parse_args()

    try:
        model = load_video_model(arguments.model)
        video = model.read_video(arguments.video)
    except (ModelError, VideoError) as error:
        parser.exit(2, f"error: {error}\n")
    config = PruneVidConfig(layer=model.shape.decoder.num_layers // 3)
    print("all tokens:", model.ask(video, arguments.question).answer)
    print("prunevid:", model.ask(video, arguments.question, config).answer)
    for ratio in (0.5, 0.25, 0.1):
        reply = model.ask(video, arguments.question, method=Newest(ratio))
        assert reply.report is not None
        print(f"newest, {reply.report.tokens_kept} tokens: {reply.answer}")


if __name__ == "__main__":
    main()
