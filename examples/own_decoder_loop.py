"""The core's functions in a decoder loop of your own: merge, run layers, select, decode.

    python examples/own_decoder_loop.py
    python examples/own_decoder_loop.py --model MODELS/llava-onevision-7b --video clip.mp4

Nothing here is hooked: this is what an engine with its own loop has to do, in the order in which it
does it. The layers are those of LLaVA-OneVision's decoder; the core sees plain tensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import DynamicCache

from prunevid_kernels import (
    PruneVidConfig,
    compact,
    merge_video,
    score_visual_tokens,
    select_tokens,
)
from prunevid_kernels.adapters import ModelError, VideoModel, load_video_model
from prunevid_kernels.adapters.video.reader import VideoError
from prunevid_kernels.benchmarks.embedded import EMBEDDED_MODEL, SAMPLE_CLIP, SAMPLE_QUESTION


@torch.inference_mode()
def answer(model: VideoModel, prompt: dict, config: PruneVidConfig, max_new_tokens: int) -> str:
    core, ids = model.model.model, prompt["input_ids"][0]
    decoder, head = core.language_model, model.model.get_output_embeddings()

    # The video's placeholders [first, stop) become merged tokens; a newline embedding ends them.
    rows = core.get_video_features(prompt["pixel_values_videos"]).pooler_output[0]  # [T * N + 1, C]
    features = rows[:-1].unflatten(0, (prompt["pixel_values_videos"].shape[1], -1))  # [T, N, C]
    places = (ids == core.config.video_token_id).nonzero()
    first, stop = int(places[0]), int(places[-1]) + 1
    merged = merge_video(features, config)
    words = decoder.embed_tokens(ids)
    hidden = torch.cat([words[:first], merged.tokens, rows[-1:], words[stop:]])[None]
    visual = slice(first, first + merged.layout.num_merged)
    question = slice(visual.stop + 1, hidden.shape[1])

    cache = DynamicCache(config=decoder.config)
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    for index, layer in enumerate(decoder.layers):
        before = hidden
        rotary = decoder.rotary_emb(hidden, positions)
        hidden = layer(hidden, position_embeddings=rotary, past_key_values=cache)
        if index != config.layer:
            continue
        normed, attention = layer.input_layernorm(before), layer.self_attn
        heads = (1, normed.shape[1], -1, attention.head_dim)
        query = attention.q_proj(normed).view(heads).transpose(1, 2)[:, :, question]
        key = attention.k_proj(normed).view(heads).transpose(1, 2)
        scores = score_visual_tokens(query, key, visual)[0]  # [L], un-rotated: score="nope"
        kept = select_tokens(scores, merged.layout, config)
        everything = torch.arange(hidden.shape[1], device=hidden.device)
        stay = torch.cat([everything[:first], first + kept, everything[visual.stop :]])
        hidden, positions = compact([hidden], stay, dim=1)[0], positions[:, stay]
        for entry in cache.layers[: index + 1]:  # what earlier layers hold is dropped as well
            entry.keys, entry.values = compact([entry.keys, entry.values], stay, dim=2)
        print(f"{len(rows) - 1} visual tokens -> {len(scores)} merged -> {len(kept)} kept")

    said = []
    position = positions[:, -1:]
    while len(said) < max_new_tokens:
        said.append(int(head(decoder.norm(hidden[:, -1:])).argmax()))
        if said[-1] == model.model.generation_config.eos_token_id:
            break
        hidden = decoder.embed_tokens(torch.tensor([said[-1:]], device=hidden.device))
        position = position + 1
        rotary = decoder.rotary_emb(hidden, position)
        for layer in decoder.layers:
            hidden = layer(hidden, position_embeddings=rotary, past_key_values=cache)
    return model.tokenizer.decode(said, skip_special_tokens=True).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="LLaVA-OneVision folder")
    parser.add_argument("--video", type=Path, default=SAMPLE_CLIP, help="file or folder of images")
    parser.add_argument("--question", default=SAMPLE_QUESTION)
    parser.add_argument("--device", default="cpu", help="such as cuda")
    arguments = parser.parse_args()

    try:
        model = load_video_model(arguments.model, arguments.device)
        video = model.read_video(arguments.video)
    except (ModelError, VideoError) as error:
        parser.exit(2, f"error: {error}\n")
    if model.family.name != "llava_onevision":
        parser.error(f"this loop is LLaVA-OneVision's, {model.name} is {model.family.title}")
    prompt = model.encode(video, arguments.question)
    config = PruneVidConfig(layer=model.shape.decoder.num_layers // 3)
    print("own loop:", answer(model, prompt, config, max_new_tokens=16))
    print("adapter:", model.ask(video, arguments.question, config).answer)


if __name__ == "__main__":
    main()
