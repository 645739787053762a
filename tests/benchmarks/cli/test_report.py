"""The report: one self-contained file that says what the record says, and pictures that show it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_kernels import PruneVidConfig, TokenLayout, merge_video
from prunevid_kernels.benchmarks.embedded.model import LIMITS
from prunevid_kernels.benchmarks.run import drawing
from prunevid_kernels.benchmarks.run.drawing import (
    PrunedVideo,
    draw_heat_map,
    draw_pages,
    draw_strip,
)
from prunevid_kernels.benchmarks.run.page import _write_all

pytestmark = pytest.mark.one_version

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Text by element id, pictures, and everything that a browser would fetch or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.text: dict[str, str] = {}
        self.images: list[dict[str, str | None]] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            self.images.append(values)
        for name in ("src", "href", "srcset", "data", "action"):
            value = values.get(name)
            if value and not value.startswith("data:"):
                self.fetched.append(value)
        if tag not in VOID:
            self.open.append((tag, values.get("id")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, element_id in self.open:
            if element_id:
                self.text[element_id] = self.text.get(element_id, "") + data


def words(text: str) -> str:
    return " ".join(text.split())


def test_page_needs_nothing_from_outside(default_run) -> None:
    page = Page(default_run.html)
    assert page.fetched == []
    assert "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"@import|url\(", default_run.html)


def test_every_picture_is_embedded_and_lies_beside_the_page(default_run) -> None:
    page = Page(default_run.html)
    pages = list(default_run.folder.glob("segment_*_page_*.png"))
    assert len(pages) >= default_run.record["segments"]
    assert len(page.images) == len(pages) + 3  # strip, heat map, chart
    sizes = []
    for image in page.images:
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/jpeg;base64" and image["alt"]
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    beside = [Image.open(path).size for path in default_run.folder.glob("*.png")]
    assert sorted(sizes) == sorted(beside)


def test_numbers_are_those_of_the_record(default_run) -> None:
    text, record = Page(default_run.html).text, default_run.record
    assert text["visual-tokens"] == f"{record['visual_tokens']:,}"
    assert text["merged-tokens"] == f"{record['merged_tokens']:,}"
    assert text["kept-tokens"] == f"{record['kept_tokens']:,}"
    assert text["flops-ratio"] == f"{100 * record['flops_ratio_exact']:.1f} %"
    answer, cost = words(text["answer"]), words(text["cost"])
    assert record["answer"] in answer and record["unpruned_answer"] in answer
    assert f"{100 * record['kept_tokens'] / record['visual_tokens']:.1f} %" in answer
    for stage, seconds in record["seconds"].items():
        assert f"{stage} {seconds:.3f} s" in cost


def test_segments_add_up_to_the_whole(default_run) -> None:
    text, record = words(Page(default_run.html).text["frames"]), default_run.record
    pattern = r"(\d+) tokens merged to (\d+) \((\d+) static .*?, (\d+) dynamic\), (\d+) kept"
    rows = np.array([list(map(int, row)) for row in re.findall(pattern, text)])
    source, merged, static, dynamic, kept = rows.sum(axis=0)
    assert len(rows) == record["segments"]
    assert source == record["visual_tokens"]
    assert merged == static + dynamic == record["merged_tokens"]
    assert kept == record["kept_tokens"]


def test_limits_of_the_embedded_model_are_announced_and_only_those(
    default_run, prunevid, checkpoint, clip
) -> None:
    assert LIMITS in words(Page(default_run.html).text["limits"])
    options = ("--model", checkpoint, "--config", "layer=2", "--frames", "2")
    outcome = prunevid("--video", clip, "--question", "q", *options)
    assert "limits" not in Page(outcome.html).text


def test_answers_about_videos_that_the_embedded_model_does_not_know_are_called_guesses(
    default_run, prunevid, checkpoint, clip
) -> None:
    options = ("--video", clip, "--question", "q", "--frames", "2")
    guessed = prunevid(*options)
    assert "Both answers are guesses" in words(Page(guessed.html).text["guess"])
    assert guessed.stdout.count("(a guess: the model does not know such videos)") == 2
    for known in (
        default_run,
        prunevid(*options, "--model", checkpoint, "--config", "layer=2"),
    ):
        assert "guess" not in Page(known.html).text and "guess" not in known.stdout


def test_the_embedded_model_runs_no_race_and_others_do(
    default_run, prunevid, checkpoint, clip
) -> None:
    options = ("--model", checkpoint, "--config", "layer=2", "--frames", "2")
    other = prunevid("--video", clip, "--question", "q", *options)
    assert "(unpruned " in other.stdout and "stage pruned unpruned" in words(
        Page(other.html).text["cost"]
    )
    assert "(unpruned " not in default_run.stdout
    cost = words(Page(default_run.html).text["cost"])
    assert "stage pruned read frames" in cost and "unpruned" not in cost
    assert "prunevid bench latency" in cost and "prunevid bench latency" in default_run.stdout


def test_record_file_is_the_last_line_of_stdout(default_run) -> None:
    saved = json.loads((default_run.folder / "run.json").read_text())
    printed = default_run.record
    assert printed.pop("report") == str(default_run.folder / "report.html")
    assert saved == printed


def test_what_the_user_wrote_is_escaped(prunevid, tmp_path: Path, clip: Path) -> None:
    question = "<script>alert('x')</script> & \"<b>\" {{ 7 * 7 }}"
    video = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    video.write_bytes(clip.read_bytes())
    outcome = prunevid("--video", video, "--question", question, "--frames", "2")
    page = Page(outcome.html)
    assert "script" not in page.tags
    assert page.fetched == []
    assert question in page.text["answer"]
    assert video.name in page.text["segments"]


def test_a_second_report_in_the_same_folder_leaves_no_old_pages(prunevid, clip) -> None:
    many = prunevid("--frames", "16")
    before = {path.name for path in many.folder.iterdir()}
    (many.folder / "notes.txt").write_text("mine")
    few = prunevid("--video", clip, "--question", "q", "--frames", "2")
    after = {path.name for path in few.folder.iterdir()}
    assert "segment_04_page_01.png" in before and "segment_04_page_01.png" not in after
    assert "notes.txt" in after
    assert len(Page(few.html).images) == len(after) - 3  # report, record, notes


def test_a_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    _write_all({"report.html": b"old", "segment_01_page_01.png": b"old"}, folder)
    with pytest.raises(OSError):
        _write_all({"report.html": b"new", "no/such/folder.png": b"new"}, folder)
    assert (folder / "report.html").read_bytes() == b"old"
    assert (folder / "segment_01_page_01.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


# ---- pictures


@pytest.fixture
def video() -> PrunedVideo:
    """Six gray frames in two segments of 4 and 2, a 2 x 3 grid, nothing merged; half is kept."""
    layout = TokenLayout.identity(6, 6, torch.device("cpu"))
    static = torch.tensor([True, False, False, False, False, True, False, False])
    layout = TokenLayout(
        segment_lengths=torch.tensor([4, 2]),
        # One static token in the first segment, the top left patch; all else alone.
        group_sizes=torch.tensor([1, 5, 5, 5, 5, 0, 6, 6]),
        group_is_static=static,
        group_segment=torch.tensor([0, 0, 0, 0, 0, 1, 1, 1]),
        source_to_merged=torch.tensor(
            [[0, *range(1 + 5 * t, 6 + 5 * t)] for t in range(4)]
            + [list(range(21 + 6 * t, 27 + 6 * t)) for t in range(2)]
        ),
        merged_anchor=layout.merged_anchor[:33],
        merged_count=torch.tensor([4] + [1] * 32),
    )
    kept = np.arange(33) % 2 == 0
    scores = np.linspace(1e-4, 1e-2, 33, dtype=np.float32)
    frames = np.full((6, 40, 60, 3), 200, dtype=np.uint8)
    return PrunedVideo(frames, np.arange(6), np.arange(6) / 2, (2, 3), layout, kept, scores)


def cell(page: Image.Image, view: str, column: int, place: tuple[int, int]) -> tuple[int, ...]:
    """Colour in the middle of a patch on a page whose tiles are 60 x 40 pixels."""
    x = 112 + column * 68 + place[1] * 20 + 10
    y = 26 + drawing.VIEWS.index(view) * 48 + place[0] * 20 + 10
    return page.getpixel((x, y))


def test_static_patches_are_tinted_in_every_frame_of_their_segment(video) -> None:
    (page,) = draw_pages(video, 0, tile_px=60)
    for column in range(4):
        red, _, blue = cell(page, "static / dynamic", column, (0, 0))
        assert blue > red + 50
        assert cell(page, "static / dynamic", column, (0, 1)) == (200, 200, 200)
    (page,) = draw_pages(video, 1, tile_px=60)
    assert cell(page, "static / dynamic", 0, (0, 0)) == (200, 200, 200)


def test_kept_patches_are_lit_and_dropped_ones_dark(video) -> None:
    (page,) = draw_pages(video, 0, tile_px=60)
    for column in range(4):
        for place in np.ndindex(2, 3):
            token = video.merged_of[column][place]
            expected = (200, 200, 200) if video.kept[token] else (40, 40, 40)
            assert cell(page, "kept tokens", column, place) == expected


def test_one_token_has_one_colour_and_neighbours_differ(video) -> None:
    (page,) = draw_pages(video, 0, tile_px=60)
    shared = {cell(page, "merged tokens", column, (0, 0)) for column in range(4)}
    assert len(shared) == 1
    others = {cell(page, "merged tokens", 0, place) for place in np.ndindex(2, 3)}
    assert len(others) == 6


def test_a_long_segment_takes_several_pages() -> None:
    layout = TokenLayout.identity(9, 4, torch.device("cpu"))
    frames = np.zeros((9, 20, 20, 3), dtype=np.uint8)
    video = PrunedVideo(
        frames, 3 * np.arange(9), None, (2, 2), layout, np.ones(36, dtype=bool), None
    )
    assert len(draw_pages(video, 0)) == 3
    assert video.segment_label(0) == "Segment 1: 9 frames"
    assert video.frame_label(2) == "image 7"
    with pytest.raises(ValueError, match="needs scores"):
        draw_heat_map(video)


def test_strip_changes_its_band_at_the_cut(video) -> None:
    strip = draw_strip(video, columns=6, tile_px=60)
    band = [strip.getpixel((column * 66 + 30, 45)) for column in range(6)]
    assert band[:4] == [drawing.SEGMENT_COLORS[0]] * 4
    assert band[4:] == [drawing.SEGMENT_COLORS[1]] * 2
    # The band joins frames of a segment and breaks between segments.
    assert strip.getpixel((63, 45)) == drawing.SEGMENT_COLORS[0]
    assert strip.getpixel((3 * 66 + 65, 45)) == drawing.PAPER


def test_heat_grows_with_the_score(video) -> None:
    page = draw_heat_map(video, columns=6, tile_px=60)
    cold = sum(page.getpixel((10, 10)))  # token 0, the lowest score
    hot = sum(page.getpixel((5 * 66 + 50, 30)))  # the last token, the highest
    assert hot > cold + 200


@pytest.mark.sample(3)
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7)], ids=str)
@pytest.mark.parametrize("grid", [(1, 1), (14, 14)], ids=str)
def test_any_frame_shape_can_be_drawn(shape: tuple[int, int], grid: tuple[int, int]) -> None:
    features = torch.randn(3, grid[0] * grid[1], 8, generator=torch.Generator().manual_seed(0))
    layout = merge_video(features, PruneVidConfig()).layout
    count = layout.num_merged
    frames = np.zeros((3, *shape, 3), dtype=np.uint8)
    scores = np.full(count, 0.5, dtype=np.float32)
    video = PrunedVideo(
        frames, np.arange(3), None, grid, layout, np.ones(count, dtype=bool), scores
    )
    assert draw_strip(video).width > 0
    assert draw_heat_map(video).width > 0
    assert [len(draw_pages(video, segment)) for segment in range(layout.num_segments)]
