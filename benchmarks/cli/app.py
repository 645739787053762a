"""``prunevid app``: a page in the browser to try pruning out on a video of one's own."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Annotated

import typer

from ..support.terminal import Device, LoraAlpha, ModelFolder, fail, say


def app_command(
    model: ModelFolder = None,
    lora_alpha: LoraAlpha = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Number of frames to sample.  [default: the model's own]"),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")
    ] = 32,
    device: Device = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines reach all but loopback ones.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen on.  [default: a free one from 7860]"),
    ] = None,
    max_mb: Annotated[int, typer.Option(min=1, help="Largest video to take, in MB.")] = 200,
    max_seconds: Annotated[int, typer.Option(min=1, help="Longest video to take.")] = 600,
) -> None:
    """Ask about a video in the browser, settings at hand.

    The page follows every setting of pruning while you look.
    """
    if find_spec("gradio") is None:
        fail('the page needs Gradio, the extra "app": pip install ".[app]" in a checkout')
    from prunevid_kernels.adapters import ModelError, load_video_model
    from prunevid_kernels.adapters.families.video_model import silence_transformers

    from ..app.page import build, serve
    from ..app.studio import Limits, Studio
    from ..embedded import SAMPLE_CLIP, SAMPLE_QUESTION, load_embedded_model, sample_clip
    from ..support.options import InputError, resolve_device

    silence_transformers()
    try:
        where = resolve_device(device)
        if model is None:
            loaded = load_embedded_model(where)
            sample, sample_question = SAMPLE_CLIP, SAMPLE_QUESTION
        else:
            loaded = load_video_model(model, where, lora_alpha=lora_alpha)
            sample, sample_question = sample_clip.SAMPLE_CLIP, sample_clip.SAMPLE_QUESTION
    except (InputError, ModelError) as error:
        fail(str(error))
    studio = Studio(
        loaded,
        Limits(max_bytes=max_mb * 1_000_000, max_seconds=max_seconds),
        max_new_tokens=max_new_tokens,
        frames=frames,
    )
    page = build(studio, sample=sample, sample_question=sample_question)
    try:
        _, address = serve(page, studio, host=host, port=port, sample=sample)
    except OSError as error:
        studio.close()
        fail(f"--host, --port: {error}")
    if not is_loopback(host):
        say(
            f"WARNING: whoever reaches {host} can upload videos and use this model; there is no"
            " password",
            file=sys.stderr,
        )
    for name, reason in studio.left_out.items():
        say(f"not for this model: {name}: {reason}", file=sys.stderr)
    say(f"{loaded.name} is at {address} (ends with Ctrl-C)")
    sys.stdout.flush()
    try:
        page.block_thread()
    finally:
        studio.close()


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
