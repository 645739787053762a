"""What the page shows of a look, as HTML: answers, numbers, pictures.

Pictures are inside the page, so nothing is written to disk and nothing has to be cleared away.
Every word that a user or a model wrote is escaped.
"""

from __future__ import annotations

import base64
from html import escape

from PIL import Image

from ..run.drawing import draw_pages, draw_strip, jpeg_bytes
from .studio import Look

STRIP_PX = 96  # width of a frame in the strip
LEGEND = (
    "Rows: the frame; <b>static</b> patches in blue, dynamic ones inside an orange line; "
    "<b>merged</b> tokens, one colour each (black: dropped before); <b>kept</b> tokens lit."
)


def hint() -> str:
    """What a new page says where the answers will be."""
    return '<p class="pv-note">Drop a video in and ask about it, or take the sample.</p>'


def message(text: str) -> str:
    """One line about what went wrong."""
    line = " ".join(text.split())
    return f'<p class="pv-error" role="alert">{escape(line)}</p>'


def answers(look: Look, limits: str | None) -> str:
    """Both answers, side by side.

    Args:
        look: to be shown.
        limits: what a reader of the answers has to know of the model; None: nothing.
    """
    note = f'<p class="pv-note">{escape(limits)}</p>' if limits else ""
    return (
        '<div class="pv-answers">'
        f"{_answer('unpruned', look.unpruned_answer)}{_answer('pruned', look.answer)}"
        f"</div>{note}"
    )


def _answer(kind: str, text: str) -> str:
    return f'<div class="pv-answer" id="pv-{kind}"><h4>{kind}</h4><p>{escape(text)}</p></div>'


def numbers(look: Look) -> str:
    """Tokens, FLOPs and milliseconds, as a table."""
    counts = look.counts
    visual, merged, kept = counts.visual_tokens, counts.merged_tokens, counts.kept_tokens
    layer = "" if counts.layer is None else f", after layer {counts.layer} of {counts.num_layers}"
    rows = [
        ("visual tokens", f"{visual:,}", f"{merged:,} merged, {kept:,} kept{layer}"),
        ("left of them", "100%", f"{merged / visual:.1%} merged, {kept / visual:.1%} kept"),
        ("entries in the caches", "100%", f"{look.cached_ratio:.1%}"),
        ("decoder's FLOPs for the prompt", "100%", f"{look.flops_ratio:.1%}"),
        ("ms to the first word", f"{look.unpruned_ms:.0f}", f"{look.ms:.0f}"),
        ("segments, static patches", "", f"{counts.segments}, {counts.static_share:.0%}"),
    ]
    body = "".join(
        f"<tr><th>{name}</th><td>{before}</td><td>{after}</td></tr>" for name, before, after in rows
    )
    note = ""
    if kept == 0:
        note = message("not one token was kept: the answer is given without the video")
    elif kept == visual and look.cached_ratio == 1:
        note = message("nothing was pruned with these settings")
    head = "<tr><th></th><th>unpruned</th><th>pruned</th></tr>"
    return f'<table class="pv-numbers">{head}{body}</table>{note}'


def segment_names(look: Look) -> list[str]:
    """What to choose a segment by."""
    return [look.drawn.segment_label(index) for index in range(len(look.drawn.segments))]


def strip(look: Look) -> str:
    """All frames with the segments they form."""
    return _picture(
        draw_strip(look.drawn, tile_px=STRIP_PX),
        "pv-strip",
        "the sampled frames, cut into segments",
    )


def segment(look: Look, index: int) -> str:
    """One segment's frames: static and dynamic, merged and kept tokens.

    Args:
        look: to be shown.
        index: of the segment; the last one where there are fewer by now.
    """
    index = min(index, len(look.drawn.segments) - 1)
    pages = draw_pages(look.drawn, index)
    alt = f"segment {index + 1}: static and dynamic patches, merged and kept tokens of each frame"
    drawn = "".join(_picture(page, f"pv-page-{number}", alt) for number, page in enumerate(pages))
    return f'{drawn}<p class="pv-note">{LEGEND}</p>'


def _picture(image: Image.Image, name: str, alt: str) -> str:
    encoded = base64.b64encode(jpeg_bytes(image, optimize=False)).decode("ascii")
    return (
        f'<div class="pv-scroll"><img id="{name}" alt="{alt}" width="{image.width}"'
        f' height="{image.height}" src="data:image/jpeg;base64,{encoded}"></div>'
    )
