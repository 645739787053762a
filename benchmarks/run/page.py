"""``report.html`` and its pictures: a run explained to someone who has never read the paper.

The page is one file: style inline, pictures as data URIs, nothing fetched, so that it opens from
disk and can be mailed. The same pictures lie beside it as PNG. Everything is made in memory and
in a scratch folder first; a run that fails on the way leaves the target folder as it was.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from prunevid_kernels import __version__
from prunevid_kernels.adapters.families import FAMILIES
from prunevid_kernels.adapters.video.reader import path_text

from .drawing import draw_heat_map, draw_pages, draw_strip, draw_token_chart, jpeg_bytes, png_bytes
from .run import RunResult

REPORT_NAME = "report.html"
RECORD_NAME = "run.json"
# Pictures of an earlier report in the same folder; a new one may have fewer pages.
_PAGE_PATTERN = "segment_*_page_*.png"


@dataclass(frozen=True)
class Picture:
    """A drawn picture: file name, what it shows in words, and where on the page it belongs."""

    name: str
    alt: str
    image: Image.Image

    @property
    def data_uri(self) -> str:
        encoded = base64.b64encode(jpeg_bytes(self.image)).decode("ascii")
        return f"data:image/jpeg;base64,{encoded}"


@dataclass(frozen=True)
class SegmentView:
    """One segment on the page: its label and counts, and its pages of frames."""

    label: str
    static_tokens: int
    dynamic_tokens: int
    source_tokens: int
    kept_tokens: int
    pages: list[Picture]


def write_report(result: RunResult, folder: Path) -> Path:
    """Write ``report.html``, ``run.json`` and the PNG pictures into ``folder``, made if missing.

    Returns:
        The path of ``report.html``.

    Raises:
        OSError: the folder cannot be written; what it held is then unchanged.
    """
    strip = Picture(
        "strip.png", "the sampled frames, cut into segments", draw_strip(result.pruned_video)
    )
    heat = None
    if result.pruned_video.scores is not None:
        heat = Picture("heat.png", "attention of the question", draw_heat_map(result.pruned_video))
    chart = Picture("tokens.png", "visual tokens in each decoder layer", _chart(result))
    segments = _segment_views(result)
    pictures = [strip, chart, *([heat] if heat else [])]
    pictures += [page for segment in segments for page in segment.pages]
    html = _render(result, strip=strip, heat=heat, chart=chart, segments=segments)

    files = {picture.name: png_bytes(picture.image) for picture in pictures}
    files[RECORD_NAME] = (json.dumps(result.summary(), indent=2) + "\n").encode()
    files[REPORT_NAME] = html.encode()
    _write_all(files, folder)
    return folder / REPORT_NAME


def _chart(result: RunResult) -> Image.Image:
    counts = result.counts
    last_merged_layer = counts.num_layers if counts.layer is None else counts.layer
    return draw_token_chart(
        counts.visual_tokens,
        counts.merged_tokens,
        counts.kept_tokens,
        last_merged_layer,
        counts.num_layers,
    )


def _segment_views(result: RunResult) -> list[SegmentView]:
    video = result.pruned_video
    layout = video.layout
    group_of = layout.merged_groups().numpy()
    segment_of = layout.group_segment.numpy()[group_of]
    views = []
    for segment, frames in enumerate(video.segments):
        drawn = draw_pages(video, segment)
        pages = [
            Picture(
                f"segment_{segment + 1:02d}_page_{page + 1:02d}.png",
                f"segment {segment + 1}, page {page + 1} of {len(drawn)}",
                image,
            )
            for page, image in enumerate(drawn)
        ]
        views.append(
            SegmentView(
                label=video.segment_label(segment),
                static_tokens=int(layout.static_sizes()[segment]),
                dynamic_tokens=int(layout.dynamic_sizes()[segment]),
                source_tokens=len(frames) * layout.tokens_per_frame,
                kept_tokens=int(video.kept[segment_of == segment].sum()),
                pages=pages,
            )
        )
    return views


def _render(result: RunResult, **pictures: Any) -> str:
    # Everything that came from the user (question, file names, the model's words) is escaped.
    environment = Environment(
        loader=PackageLoader("prunevid_kernels.benchmarks.support"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["seconds"] = lambda value: f"{value:.3f} s"
    return environment.get_template("report.html.j2").render(
        result=result,
        counts=result.counts,
        config=result.inputs.config,
        summary=result.summary(),
        video_name=path_text(Path(result.inputs.video.source.name)),
        families=[family.title for family in FAMILIES.values()],
        version=__version__,
        **pictures,
    )


def _write_all(files: dict[str, bytes], folder: Path) -> None:
    """All files or none: into a scratch folder on the same disk, then moved into place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".prunevid-", dir=folder.parent))
    try:
        for name, content in files.items():
            (scratch / name).write_bytes(content)
        folder.mkdir(exist_ok=True)
        for stale in folder.glob(_PAGE_PATTERN):
            if stale.name not in files:
                stale.unlink()
        for name in files:
            os.replace(scratch / name, folder / name)
    finally:
        shutil.rmtree(scratch)
