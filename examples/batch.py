"""Several videos in one ``generate``, all of them pruned.

    python examples/batch.py
    python examples/batch.py --model MODELS/llava-onevision-7b --question "..." one.mp4 two.mp4

Prompts of different length are padded on the left, as for any batch in transformers; the videos
need the same number of frames. Each is merged and selected for its own question.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import ModelError, load_video_model, prune
from prunevid_kernels.adapters.video.reader import VideoError
from prunevid_kernels.benchmarks.datasets.synthetic import make_clip
from prunevid_kernels.benchmarks.embedded import EMBEDDED_MODEL


def stack(prompts: list[dict[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """One batch: what has a value for each token is padded on the left, the rest is joined."""
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
    batch = {}
    for name in prompts[0]:
        rows = [prompt[name] for prompt in prompts]
        if rows[0].shape == prompts[0]["input_ids"].shape:
            value = pad_id if name == "input_ids" else 0
            rows = [F.pad(row, (longest - row.shape[1], 0), value=value) for row in rows]
        batch[name] = torch.cat(rows)
    return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", nargs="*", type=Path, help="[default: three generated clips]")
    parser.add_argument("--question", help="of all videos; needed with videos of your own")
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="checkpoint folder")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    arguments = parser.parse_args()
    if arguments.videos and not arguments.question:
        parser.error("say what to ask with --question")

    try:
        model = load_video_model(arguments.model, arguments.device)
        asked = [(model.read_video(path), arguments.question) for path in arguments.videos]
    except (ModelError, VideoError) as error:
        parser.exit(2, f"error: {error}\n")
    if not asked:
        clips = [make_clip("held_out", index) for index in range(3)]
        asked = [(clip.frames, arguments.question or clip.questions[0].text) for clip in clips]

    prompts = [model.encode(video, question) for video, question in asked]
    tokenizer = model.tokenizer
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    batch = stack(prompts, pad_id)
    config = PruneVidConfig(layer=model.shape.decoder.num_layers // 3)
    with prune(model.model, config) as handle, model.telling(batch):
        output = model.model.generate(**batch, do_sample=False, max_new_tokens=16)
    answers = tokenizer.batch_decode(
        output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    for (_, question), answer, video in zip(asked, answers, handle.report.last.videos, strict=True):
        print(f"{question} {answer.strip()} ({video.tokens_kept} of {video.tokens_before} tokens)")


if __name__ == "__main__":
    main()
