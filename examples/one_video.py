"""Ask about one video, with all of its tokens and with most of them pruned.

    python examples/one_video.py
    python examples/one_video.py --model MODELS/llava-onevision-7b --video clip.mp4 --question "..."

Without --model this runs the embedded model, which knows nothing but clips like its sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import ModelError, load_video_model
from prunevid_kernels.adapters.video.reader import VideoError
from prunevid_kernels.benchmarks.embedded import EMBEDDED_MODEL, SAMPLE_CLIP, SAMPLE_QUESTION


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="checkpoint folder")
    parser.add_argument("--video", type=Path, default=SAMPLE_CLIP, help="file or folder of images")
    parser.add_argument("--question", default=SAMPLE_QUESTION)
    parser.add_argument("--device", default="cpu", help="such as cuda")
    arguments = parser.parse_args()

    try:
        model = load_video_model(arguments.model, arguments.device)
        video = model.read_video(arguments.video)
    except (ModelError, VideoError) as error:
        parser.exit(2, f"error: {error}\n")

    # The selection looks at the attention of a layer a third of the way through the decoder.
    config = PruneVidConfig(layer=model.shape.decoder.num_layers // 3)
    whole = model.ask(video, arguments.question)
    pruned = model.ask(video, arguments.question, config)

    report = pruned.report
    assert report is not None
    print(f"{len(video.frames)} of {video.total_frames} frames")
    print(f"all {report.tokens_before} tokens: {whole.answer}")
    print(f"{report.tokens_kept} tokens kept: {pruned.answer}")
    print(report)


if __name__ == "__main__":
    main()
