"""Pictures of a pruning run: numpy and Pillow in, Pillow images out.

Every picture is drawn on the sampled frames themselves. A frame is stretched to the model's square
without cropping, so the token grid lies evenly over the original frame, whatever its shape. What
happens to a source token is looked up through ``source_to_merged``: a merged token that stands for
forty patches is lit, coloured or dropped in all forty places.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from prunevid_kernels import TokenLayout

INK = (32, 36, 44)
SOFT = (110, 118, 130)
PAPER = (255, 255, 255)
STATIC_TINT = np.array((64, 120, 216), dtype=np.float32)
DYNAMIC_EDGE = (240, 128, 20)
KEPT_EDGE = (255, 214, 64)
SEGMENT_COLORS = (
    (38, 110, 190),
    (214, 104, 28),
    (44, 140, 84),
    (148, 74, 168),
    (190, 52, 66),
    (60, 140, 150),
)
FRAMES_PER_PAGE = 4
TILE_PX = 216  # width of a frame on a page
VIEWS = ("original", "static / dynamic", "merged tokens", "kept tokens")


@dataclass(frozen=True)
class PrunedVideo:
    """What the pictures need of a run: host memory only.

    Attributes:
        frames: [T, H, W, 3] uint8.
        indices: [T], the source's frame that each one is, from 0.
        times_s: [T], or None where the source has no clock.
        grid: tokens of a frame as (rows, columns); rows * columns = N.
        layout: where every token went.
        kept: [L] bool, the merged tokens that the selection kept.
        scores: [L] float32, attention of the question to each merged token; None without selection.
    """

    frames: NDArray[np.uint8]
    indices: NDArray[np.int64]
    times_s: NDArray[np.float64] | None
    grid: tuple[int, int]
    layout: TokenLayout
    kept: NDArray[np.bool_]
    scores: NDArray[np.float32] | None

    @cached_property
    def merged_of(self) -> NDArray[np.int64]:
        """[T, rows, columns]: the merged token of each place, -1 where it was dropped."""
        return self.layout.source_to_merged.cpu().numpy().reshape(-1, *self.grid)

    @cached_property
    def is_static(self) -> NDArray[np.bool_]:
        """[T, rows, columns]."""
        return self.layout.static_mask().cpu().numpy().reshape(-1, *self.grid)

    @property
    def segments(self) -> list[range]:
        """The frames of each segment."""
        ends = np.cumsum(self.layout.segment_lengths.numpy()).tolist()
        return [range(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    def frame_label(self, frame: int) -> str:
        if self.times_s is None:
            return f"image {self.indices[frame] + 1}"
        return f"{self.times_s[frame]:.2f} s"

    def segment_label(self, segment: int) -> str:
        frames = self.segments[segment]
        count = f"{len(frames)} frame{'s' if len(frames) > 1 else ''}"
        if self.times_s is None:
            return f"Segment {segment + 1}: {count}"
        start, end = self.times_s[frames[0]], self.times_s[frames[-1]]
        return f"Segment {segment + 1}: {start:.1f} to {end:.1f} s, {count}"


# ---- pictures


def draw_strip(video: PrunedVideo, columns: int = 8, tile_px: int = 150) -> Image.Image:
    """All sampled frames in order; a coloured band under each, one colour a segment."""
    height_px = _tile_height(video, tile_px)
    gap, band = 6, 26
    rows = math.ceil(len(video.frames) / columns)
    columns = min(columns, len(video.frames))
    page = Image.new("RGB", (columns * (tile_px + gap), rows * (height_px + band + 14)), PAPER)
    draw = ImageDraw.Draw(page)
    for segment, frames in enumerate(video.segments):
        color = SEGMENT_COLORS[segment % len(SEGMENT_COLORS)]
        for frame in frames:
            row, column = divmod(frame, columns)
            x, y = column * (tile_px + gap), row * (height_px + band + 14)
            page.paste(_tile(video, frame, tile_px), (x, y))
            first = frame == frames[0]
            # The band runs on to the next frame of the segment and stops short at a cut.
            stop = x + tile_px + (0 if frame == frames[-1] else gap)
            draw.rectangle((x, y + height_px + 3, stop, y + height_px + 3 + band), fill=color)
            label = f"{segment + 1}" if first else ""
            draw.text((x + 8, y + height_px + 16), label, PAPER, _font(17, bold=True), anchor="lm")
            draw.text(
                (x + tile_px - 6, y + height_px + 16),
                video.frame_label(frame),
                PAPER,
                _font(14),
                anchor="rm",
            )
            if first and frame:
                draw.line((x - gap // 2, y, x - gap // 2, y + height_px + band), INK, 3)
    return page


def draw_pages(video: PrunedVideo, segment: int, tile_px: int = TILE_PX) -> list[Image.Image]:
    """One segment, ``FRAMES_PER_PAGE`` frames a page: a column a frame, a row a view."""
    frames = video.segments[segment]
    starts = range(0, len(frames), FRAMES_PER_PAGE)
    return [_page(video, frames[start : start + FRAMES_PER_PAGE], tile_px) for start in starts]


def draw_heat_map(video: PrunedVideo, columns: int = 8, tile_px: int = 150) -> Image.Image:
    """The question's attention to each token on a log scale, over the grey frames.

    Raises:
        ValueError: a run without scores.
    """
    if video.scores is None:
        raise ValueError("a heat map needs scores; this run selected nothing")
    logs = np.log10(np.maximum(video.scores, np.finfo(np.float32).tiny))
    # The best one per cent may all look hottest: one outlier must not grey out the rest.
    low, high = np.quantile(logs, (0.01, 0.99))
    heat = np.clip((logs - low) / max(high - low, 1e-6), 0, 1)
    height_px = _tile_height(video, tile_px)
    rows = math.ceil(len(video.frames) / columns)
    columns = min(columns, len(video.frames))
    gap, legend = 6, 64
    size = (columns * (tile_px + gap), rows * (height_px + gap) + legend)
    page = Image.new("RGB", size, PAPER)
    for frame in range(len(video.frames)):
        gray = _gray(np.asarray(_tile(video, frame, tile_px)))
        merged_of = video.merged_of[frame]
        cells = _to_pixels(np.where(merged_of < 0, 0, heat[merged_of]), gray.shape[:2])
        colors = _heat_colors(cells)
        row, column = divmod(frame, columns)
        blended = 0.35 * gray + 0.65 * colors
        page.paste(_image(blended), (column * (tile_px + gap), row * (height_px + gap)))
    draw = ImageDraw.Draw(page)
    ramp_px, y = min(320, size[0] - 20), size[1] - legend + 10
    ramp = _heat_colors(np.linspace(0, 1, ramp_px)[None].repeat(18, axis=0))
    page.paste(_image(ramp), (0, y))
    draw.text((0, y + 24), f"{10 ** (low + 2):.2g} %", SOFT, _font(14))
    draw.text((ramp_px, y + 24), f"{10 ** (high + 2):.2g} %", SOFT, _font(14), anchor="ra")
    if size[0] > ramp_px + 580:
        note = "largest share of attention, any question token, any head (log scale)"
        draw.text((ramp_px + 16, y + 9), note, SOFT, _font(15), anchor="lm")
    return page


def draw_token_chart(
    visual_tokens: int, merged_tokens: int, kept_tokens: int, layer: int, num_layers: int
) -> Image.Image:
    """Visual tokens that each decoder layer runs on, against the unpruned model."""
    figure = Figure(figsize=(9.2, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    layers = np.arange(num_layers)
    pruned = np.where(layers <= layer, merged_tokens, kept_tokens)
    axes.bar(layers, visual_tokens, width=0.82, color="#e3e7ee", label="without pruning")
    before = layers <= layer
    axes.bar(layers[before], pruned[before], width=0.82, color="#2f6fbe", label="merged")
    if not before.all():
        axes.bar(layers[~before], pruned[~before], width=0.82, color="#f0a020", label="kept")
    if num_layers <= 16:
        for index, tokens in zip(layers, pruned, strict=True):
            text = f"{tokens:,}\n{tokens / visual_tokens:.0%}"
            axes.annotate(text, (index, tokens), (0, 3), textcoords="offset points", ha="center")
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("visual tokens")
    axes.set_xticks(layers[:: max(1, num_layers // 16)])
    axes.set_ylim(0, visual_tokens * 1.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def png_bytes(image: Image.Image) -> bytes:
    """The image as PNG: in half the usual time, for 8 % more bytes."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def jpeg_bytes(image: Image.Image, *, optimize: bool = True) -> bytes:
    """The image as JPEG with full-resolution colour: a third of the PNG, for embedding. Without
    ``optimize`` it is somewhat larger and made sooner."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=86, subsampling=0, optimize=optimize)
    return buffer.getvalue()


# ---- one page of frames


def _page(video: PrunedVideo, frames: range, tile_px: int) -> Image.Image:
    height_px = _tile_height(video, tile_px)
    gap, head, side = 8, 26, 112
    size = (side + FRAMES_PER_PAGE * (tile_px + gap), head + len(VIEWS) * (height_px + gap))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for row, view in enumerate(VIEWS):
        y = head + row * (height_px + gap) + height_px // 2
        text = view.replace(" / ", " /\n").replace(" tokens", "\ntokens")
        draw.multiline_text((4, y), text, INK, _font(16, bold=True), anchor="lm")
    for column, frame in enumerate(frames):
        x = side + column * (tile_px + gap)
        draw.text((x, 3), video.frame_label(frame), SOFT, _font(15))
        for row, image in enumerate(_views(video, frame, tile_px)):
            page.paste(image, (x, head + row * (height_px + gap)))
    return page


def _views(video: PrunedVideo, frame: int, tile_px: int) -> list[Image.Image]:
    """The frame in each of ``VIEWS``."""
    original = _tile(video, frame, tile_px)
    pixels = np.asarray(original).astype(np.float32)
    gray, shape = _gray(pixels), pixels.shape[:2]
    merged_of, is_static = video.merged_of[frame], video.is_static[frame]
    is_dropped = merged_of < 0  # by other methods; the merge leaves none out
    kept = video.kept[merged_of] & ~is_dropped

    static_cells = _to_pixels(is_static, shape)[..., None]
    static = _image(np.where(static_cells, 0.45 * gray + 0.55 * STATIC_TINT, pixels))
    _outline(static, is_static.astype(int), DYNAMIC_EDGE, 3)

    colors = _token_colors(video.layout.num_merged)[_to_pixels(merged_of, shape)]
    colors = np.where(_to_pixels(is_dropped, shape)[..., None], 0, colors)
    merged = _image(0.4 * gray + 0.6 * colors)
    _outline(merged, merged_of, PAPER, 2)

    lit = _image(np.where(_to_pixels(kept, shape)[..., None], pixels, 0.20 * gray))
    _outline(lit, kept.astype(int), KEPT_EDGE, 2)
    return [original, static, merged, lit]


def _outline(image: Image.Image, cells: NDArray, color: tuple[int, int, int], width: int) -> None:
    """Lines between neighbouring cells of different value."""
    draw = ImageDraw.Draw(image)
    rows, columns = cells.shape
    xs = np.round(np.arange(columns + 1) * image.width / columns).astype(int).tolist()
    ys = np.round(np.arange(rows + 1) * image.height / rows).astype(int).tolist()
    for r in range(rows):
        for c in range(columns):
            if c + 1 < columns and cells[r, c] != cells[r, c + 1]:
                draw.line((xs[c + 1], ys[r], xs[c + 1], ys[r + 1]), color, width)
            if r + 1 < rows and cells[r, c] != cells[r + 1, c]:
                draw.line((xs[c], ys[r + 1], xs[c + 1], ys[r + 1]), color, width)


# ---- small things


def _tile_height(video: PrunedVideo, tile_px: int) -> int:
    height, width = video.frames.shape[1:3]
    return max(1, round(tile_px * height / width))


def _tile(video: PrunedVideo, frame: int, tile_px: int) -> Image.Image:
    size = (tile_px, _tile_height(video, tile_px))
    return Image.fromarray(video.frames[frame]).resize(size, Image.Resampling.LANCZOS)


def _to_pixels(cells: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Stretch a grid of cells over a picture of the given height and width."""
    rows = np.arange(shape[0]) * cells.shape[0] // shape[0]
    columns = np.arange(shape[1]) * cells.shape[1] // shape[1]
    return cells[rows[:, None], columns[None, :]]


def _gray(pixels: NDArray) -> NDArray[np.float32]:
    luma = pixels.astype(np.float32) @ np.array((0.299, 0.587, 0.114), dtype=np.float32)
    return np.repeat(luma[..., None], 3, axis=-1)


def _image(pixels: NDArray) -> Image.Image:
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def _heat_colors(heat: NDArray) -> NDArray[np.float32]:
    """Dark violet over red to pale yellow, by piecewise linear interpolation: [..., 3], 0 to
    255."""
    stops = (0.0, 0.35, 0.7, 1.0)
    channels = ((24, 134, 240, 255), (16, 30, 120, 244), (66, 98, 44, 150))
    return np.stack([np.interp(heat, stops, c) for c in channels], axis=-1).astype(np.float32)


@lru_cache(maxsize=4)  # the same for every frame of a video
def _token_colors(count: int) -> NDArray[np.float32]:
    """[count, 3] in 0..255: hues by the golden ratio, so that successive tokens differ."""
    hues = (np.arange(count) * 0.61803398875) % 1
    lights = 0.42 + 0.26 * ((np.arange(count) * 0.7548776662) % 1)
    pairs = zip(hues, lights, strict=True)
    return 255 * np.array([colorsys.hls_to_rgb(h, light, 0.72) for h, light in pairs], np.float32)


def _font(size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    return ImageFont.truetype(findfont(f"DejaVu Sans:{'bold' if bold else 'normal'}"), size_px)
