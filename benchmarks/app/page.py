"""The page itself, in Gradio: controls, what they call, how it is served.

Nothing is decided here: a control's values become :class:`.settings.Settings`, the studio looks,
and :mod:`.parts` says what is shown. Only this machine is served unless another address is asked
for; nothing is sent elsewhere, no font or script comes from there, and there are no share links.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import ModelError
from prunevid_kernels.adapters.methods.record import option_texts
from prunevid_kernels.adapters.video.reader import VideoError

from ..support.options import InputError
from . import parts
from .settings import Settings, controls_of
from .studio import Look, Studio, without_folder

TITLE = "PruneVid"
WAITING = 16  # questions in the queue, before a user is told to come back
UPLOADS_S = 3600  # how long uploaded files stay
SLIDERS = ("share", "tau", "segment_ratio", "cluster_ratio", "keep_ratio", "layer")
# A number that is being typed is empty or out of range at times ("0" on the way to "0.5"), and
# Gradio ends such a request with an error of its own. It is sent as what the control makes of it
# when it is left: the nearest number in range; an empty one as it was before.
IN_RANGE = """(...values) => {
  const ranges = %s, before = (globalThis.pvBefore ??= [...ranges.map((range) => range.value)]);
  ranges.forEach(({index, minimum, maximum}, place) => {
    const typed = values[index];
    if (Number.isFinite(typed)) before[place] = Math.min(maximum, Math.max(minimum, typed));
    values[index] = before[place];
  });
  return values;
}"""
SHARE_TEXT = "share of the tokens to keep (PruneVid's budget); 0: the method decides by itself"

CSS = """
.pv-error {border-left: 4px solid #c62828; padding: .5em .8em; margin: .3em 0;
  overflow-wrap: anywhere;}
.pv-note {opacity: .75; font-size: .9em; margin: .3em 0;}
.pv-answers {display: flex; gap: 1em; flex-wrap: wrap;}
.pv-answer {flex: 1 1 12em; border: 1px solid var(--border-color-primary); border-radius: 8px;
  padding: .6em .8em; overflow-wrap: anywhere;}
.pv-answer h4 {margin: 0; font-weight: 600; font-size: .85em; opacity: .75;}
.pv-answer p {margin: .2em 0 0; font-size: 1.25em;}
.pv-numbers {width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums;}
.pv-numbers, .pv-numbers tr {border: none !important;}
.pv-numbers th, .pv-numbers td {text-align: left; padding: .25em .8em .25em 0 !important;
  border: none !important; border-bottom: 1px solid var(--border-color-primary) !important;
  font-weight: 400; vertical-align: top;}
.pv-numbers tr:first-child th {font-weight: 600;}
.pv-scroll {overflow-x: auto;}
.pv-scroll img {max-width: 100%; min-width: 560px; height: auto; background: #fff; margin: .4em 0;}
"""


def build(studio: Studio, *, sample: Path | None, sample_question: str) -> gr.Blocks:
    """The page around a studio.

    Args:
        studio: answers.
        sample: a clip to begin with; None: none.
        sample_question: about it.
    """
    start, layers = studio.settings, studio.num_layers
    texts = option_texts(PruneVidConfig)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(UPLOADS_S, UPLOADS_S)
    ) as page:
        gr.Markdown(f"# {TITLE}\n{studio.model.name}, {layers} decoder layers")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                video = gr.Video(label="Video", sources=["upload"], elem_id="pv-video", height=260)
                question = gr.Textbox(
                    label="Question", max_length=studio.limits.max_question, elem_id="pv-question"
                )
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="pv-ask")
                    take = gr.Button("Take the sample", visible=sample is not None)
                method = gr.Dropdown(
                    studio.methods, value=start.method, label="Method", elem_id="pv-method"
                )
                sliders = [
                    gr.Slider(
                        minimum=0 if name in ("share", "layer") else 0.05,
                        maximum=layers - 1 if name == "layer" else 1,
                        step=1 if name == "layer" else 0.01,
                        value=getattr(start, name) or 0,
                        label=name,
                        info=SHARE_TEXT if name == "share" else _first_sentence(texts[name]),
                        interactive=name in controls_of(start.method),
                        elem_id=f"pv-{name}",
                    )
                    for name in SLIDERS
                ]
            with gr.Column(scale=3, min_width=300):
                error = gr.HTML(parts.hint(), elem_id="pv-error")
                answers = gr.HTML(elem_id="pv-answers")
                numbers = gr.HTML(elem_id="pv-numbers")
                strip = gr.HTML(elem_id="pv-frames")
                # A request carries what the page showed when it was made, and is checked against
                # the choices of the answer before it, which may be fewer. So the value is a number,
                # which outlives its choices, and Gradio takes any; `_shown` says what it means.
                segment = gr.Dropdown(
                    [],
                    label="Segment",
                    allow_custom_value=True,
                    visible=False,
                    elem_id="pv-segment",
                )
                pages = gr.HTML(elem_id="pv-pages")

        asked = [video, question, method, *sliders, segment]
        shown = [error, answers, numbers, strip, segment, pages]
        answer = _answering(studio)
        one_model: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "model",
            "api_visibility": "private",
            "js": _in_range(asked, sliders),
        }
        gr.on(
            [ask.click, question.submit, video.upload],
            answer,
            asked,
            shown,
            **one_model,
        )
        # Of all that comes while a slider moves, the last counts.
        gr.on(
            [method.input, *(slider.change for slider in sliders)],
            answer,
            asked,
            shown,
            trigger_mode="always_last",
            show_progress="hidden",
            **one_model,
        )
        segment.input(answer, asked, shown, show_progress="hidden", **one_model)
        method.change(
            lambda name: [gr.update(interactive=label in controls_of(name)) for label in SLIDERS],
            method,
            sliders,
            queue=False,
            api_visibility="private",
        )
        take.click(
            lambda: (str(sample), sample_question),
            None,
            [video, question],
            api_visibility="private",
        ).then(answer, asked, shown, **one_model)
    page.queue(default_concurrency_limit=1, max_size=WAITING, api_open=False)
    return page


def serve(
    page: gr.Blocks, studio: Studio, *, host: str, port: int | None, sample: Path | None
) -> tuple[Any, str]:
    """Start serving in the background.

    Args:
        page: from :func:`build`.
        studio: whose limit holds for uploads.
        host: address to listen on.
        port: None: the first free one from 7860 on.
        sample: the one file, besides what was uploaded, that is served.

    Returns:
        The server's application and its address.

    Raises:
        OSError: no such port is free.
    """
    system = ("ui-sans-serif", "system-ui", "sans-serif")
    mono = ("ui-monospace", "Consolas", "monospace")
    application, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=studio.limits.max_bytes,
        allowed_paths=[] if sample is None else [str(sample)],
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        footer_links=[],
        theme=gr.themes.Default(font=system, font_mono=mono),
        css=CSS,
    )
    return application, address


def _answering(studio: Studio) -> Callable[..., list[Any]]:
    """What all controls call: their values in, what is shown out."""

    def answer(path: str | None, question: str, method: str, *values: Any) -> list[Any]:
        *numbers, segment = values
        try:
            index = _segment(segment)
            look = studio.look(path, question or "", _settings(method, numbers))
        except (InputError, ModelError, VideoError) as error:
            return [parts.message(without_folder(str(error), path)), *[gr.skip()] * 5]
        return _shown(look, index, studio.model.limits)

    return answer


def _in_range(asked: list[Any], sliders: list[gr.Slider]) -> str:
    """What the browser does with the values of ``asked`` before it sends them."""
    ranges = [
        {
            "index": asked.index(slider),
            "minimum": slider.minimum,
            "maximum": slider.maximum,
            "value": slider.value,
        }
        for slider in sliders
    ]
    return IN_RANGE % json.dumps(ranges)


def _settings(method: str, numbers: list[Any]) -> Settings:
    values = dict(zip(SLIDERS, numbers, strict=True))
    return Settings(method=method, **values | {"share": values["share"] or None})


def _segment(chosen: int | str | None) -> int:
    """The index that the list of segments says. Before the first answer it says nothing; text is
    what was typed into it and is none of its choices."""
    if isinstance(chosen, str):
        raise InputError(f"no segment is called {chosen!r}: choose one from the list")
    return chosen or 0


def _shown(look: Look, index: int, limits: str | None) -> list[Any]:
    names = parts.segment_names(look)
    index = min(index, len(names) - 1)  # the settings before these may have made more
    return [
        "",
        parts.answers(look, limits),
        parts.numbers(look),
        parts.strip(look),
        gr.update(
            choices=[(name, number) for number, name in enumerate(names)], value=index, visible=True
        ),
        parts.segment(look, index),
    ]


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")
