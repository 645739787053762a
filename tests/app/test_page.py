"""The page as its users meet it: upload, ask, move, choose, break, and not be alone."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tiny_folders
from playwright.sync_api import Page, expect

from prunevid_kernels.benchmarks.embedded import SAMPLE_ANSWER, SAMPLE_CLIP, SAMPLE_QUESTION

expect.set_options(timeout=60_000)


def upload(page: Page, file: Path) -> None:
    page.locator("#pv-video input[type=file]").set_input_files(file)


def ask(page: Page, question: str) -> None:
    page.locator("#pv-question textarea, #pv-question input").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def set_number(page: Page, name: str, value: str) -> None:
    """Type into a slider's number and leave it."""
    field = page.locator(f"#pv-{name} input[type=number]")
    field.fill(value)
    field.press("Tab")


def choose(page: Page, control: str, option: str) -> None:
    page.locator(f"{control} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def picture(page: Page) -> str:
    return page.locator("#pv-page-0").get_attribute("src") or ""


def kept(page: Page) -> int:
    found = re.search(r"([\d,]+) kept", page.locator("#pv-numbers").inner_text())
    assert found
    return int(found[1].replace(",", ""))


@pytest.fixture
def asked(visit, address) -> Page:
    """A page with the sample, answered."""
    page = visit(address)
    page.get_by_role("button", name="Take the sample").click()
    expect(page.locator("#pv-pruned p")).to_have_text(SAMPLE_ANSWER)
    expect(page.locator("#pv-page-0")).to_be_visible()
    return page


def test_upload_and_ask(visit, address):
    page = visit(address)
    upload(page, SAMPLE_CLIP)
    expect(page.locator("#pv-error")).to_contain_text("no question: say what to ask")
    ask(page, SAMPLE_QUESTION)
    expect(page.locator("#pv-unpruned p")).to_have_text(SAMPLE_ANSWER)
    expect(page.locator("#pv-pruned p")).to_have_text(SAMPLE_ANSWER)
    expect(page.locator("#pv-numbers")).to_contain_text("24 kept, after layer 1 of 5")
    expect(page.locator("#pv-error")).to_have_text("")
    for name in ("#pv-strip", "#pv-page-0", "#pv-page-1"):
        assert page.locator(name).evaluate("picture => picture.naturalWidth") > 300


def test_everything_comes_from_this_machine(asked, address):
    hosts = {urlsplit(url).netloc for url in asked.requested if url.startswith("http")}
    assert hosts == {urlsplit(address).netloc}


def test_a_slider_changes_picture_and_numbers(asked):
    before = picture(asked)
    assert kept(asked) == 24
    set_number(asked, "keep_ratio", "0.15")
    expect(asked.locator("#pv-page-0")).not_to_have_attribute("src", before)
    assert kept(asked) == 4
    handle = asked.locator("#pv-keep_ratio input[type=range]")
    handle.focus()
    for _ in range(40):  # as a user drags: what comes last counts
        handle.press("ArrowRight")
    expect(asked.locator("#pv-numbers")).to_contain_text("35 kept")
    set_number(asked, "share", "0.1")
    expect(asked.locator("#pv-numbers")).to_contain_text("28 merged")


def test_another_method_and_what_it_listens_to(asked):
    before = picture(asked)
    choose(asked, "#pv-method", "evs")
    expect(asked.locator("#pv-numbers")).to_contain_text("72 merged, 72 kept")
    expect(asked.locator("#pv-page-0")).not_to_have_attribute("src", before)
    expect(asked.locator("#pv-tau input[type=range]")).to_be_disabled()
    expect(asked.locator("#pv-share input[type=range]")).to_be_enabled()
    choose(asked, "#pv-method", "fastv")
    set_number(asked, "share", "0.1")
    expect(asked.locator("#pv-error")).to_contain_text("it cannot keep 0.1")
    choose(asked, "#pv-method", "prunevid")
    expect(asked.locator("#pv-error")).to_have_text("")
    expect(asked.locator("#pv-tau input[type=range]")).to_be_enabled()


def test_another_segment(asked):
    before = picture(asked)
    label = asked.locator("#pv-segment input")
    expect(label).to_have_value("Segment 1: 0.0 to 5.6 s, 6 frames")
    choose(asked, "#pv-segment", "Segment 2: 6.8 to 7.9 s, 2 frames")
    expect(asked.locator("#pv-page-0")).not_to_have_attribute("src", before)
    expect(label).to_have_value("Segment 2: 6.8 to 7.9 s, 2 frames")


def test_a_broken_video_is_one_line_and_the_page_goes_on(visit, address, tmp_path):
    page = visit(address)
    broken = tmp_path / "holiday.mp4"
    broken.write_bytes(SAMPLE_CLIP.read_bytes()[:9000])
    page.locator("#pv-question textarea, #pv-question input").fill(SAMPLE_QUESTION)
    upload(page, broken)
    error = page.locator("#pv-error .pv-error")
    expect(error).to_be_visible()
    text = error.inner_text()
    assert text.startswith("holiday.mp4: ") and "\n" not in text and str(tmp_path) not in text
    page.get_by_role("button", name="Take the sample").click()
    expect(page.locator("#pv-pruned p")).to_have_text(SAMPLE_ANSWER)
    expect(page.locator("#pv-error")).to_have_text("")


def test_two_users_at_once(visit, address):
    users = {SAMPLE_QUESTION: SAMPLE_ANSWER, "What color is the moving shape?": "yellow"}
    pages = {question: visit(address) for question in users}
    for page in pages.values():
        upload(page, SAMPLE_CLIP)
        expect(page.locator("#pv-error")).to_contain_text("no question")
    for question, page in pages.items():
        ask(page, question)
    for question, page in pages.items():
        expect(page.locator("#pv-unpruned p")).to_have_text(users[question])
        expect(page.locator("#pv-pruned p")).to_have_text(users[question])
    one, other = pages.values()
    set_number(one, "keep_ratio", "0.15")
    expect(one.locator("#pv-numbers")).to_contain_text(" 4 kept")
    assert kept(other) != 4


def test_a_narrow_page_does_not_scroll_sideways(visit, address):
    page = visit(address, width=390)
    page.get_by_role("button", name="Take the sample").click()
    expect(page.locator("#pv-page-0")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_another_family_s_folder_and_what_is_too_much(visit, serve, tmp_path):
    """A model whose videos are images; limits on the file and on its length."""
    folder = tiny_folders.WRITERS["internvl"](tmp_path / "internvl")
    limits = ("--max-seconds", "5", "--max-mb", "1", "--frames", "4", "--max-new-tokens", "4")
    with serve(tmp_path, "--model", str(folder), *limits) as address:
        page = visit(address)
        large = tmp_path / "large.mp4"
        large.write_bytes(bytes(1_200_000))
        upload(page, large)
        expect(page.get_by_text("exceed the maximum allowed size").first).to_be_visible()
        page = visit(address)
        ask(page, "Where does the red circle go?")
        expect(page.locator("#pv-error")).to_contain_text("no video: drop one in")
        upload(page, SAMPLE_CLIP)
        expect(page.locator("#pv-error")).to_contain_text(
            "the video is 8 seconds long, this page takes up to 5 seconds"
        )
    with serve(tmp_path, "--model", str(folder), "--frames", "4") as address:
        page = visit(address)
        page.get_by_role("button", name="Take the sample").click()
        expect(page.locator("#pv-numbers")).to_contain_text("kept, after layer")


def test_segments_that_come_and_go_while_settings_change(asked):
    """A request names a segment of the answer that was shown; by its turn there may be fewer."""
    label = asked.locator("#pv-segment input")
    choose(asked, "#pv-segment", "Segment 2: 6.8 to 7.9 s, 2 frames")
    for ratio in ("0.12", "0.3", "0.11", "0.35", "0.1"):
        set_number(asked, "segment_ratio", ratio)
    expect(label).to_have_value("Segment 1: 0.0 to 7.9 s, 8 frames")
    expect(asked.locator("#pv-error")).to_have_text("")
    label.fill("9")
    label.press("Tab")
    expect(asked.locator("#pv-error")).to_contain_text("no segment is called '9': choose one")


def test_a_number_that_is_typed_slowly(asked):
    """On its way it is empty and out of range."""
    field = asked.locator("#pv-keep_ratio input[type=number]")
    field.fill("")
    for typed, shown in (("0", "0 kept"), (".", "0 kept"), ("1", "0 kept"), ("5", "4 kept")):
        field.press(typed)
        expect(asked.locator("#pv-numbers")).to_contain_text(f"merged, {shown},")
    field.fill("7")
    expect(asked.locator("#pv-numbers")).to_contain_text("70 merged, 70 kept")
    field.press("Tab")
    expect(field).to_have_value("1")
    expect(asked.locator("#pv-error")).to_have_text("")
