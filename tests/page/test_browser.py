"""The HTML report in a browser: clicked through, from a file, with no network, on a desk and on a phone.

Takes Debian's chromium and the package playwright (`make test-packages` installs both). Without them these tests are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import lacking, need_programs
from kmatrix.report import html
from kmatrix.verdict.suites.subtest import SubTest
from tests.page import real
from tests.unit.facts import command_record, record

EVIL = "<img src=x onerror=alert(1)>"
DESK, PHONE = {"width": 1400, "height": 900}, {"width": 400, "height": 800}
COMMANDS = [
    command_record("6.1-arm64", [SubTest("TestRing", "passed", 0.1), SubTest("TestPin", "passed", 0.1)]),
    command_record("5.4-arm64", [SubTest("TestRing", "passed", 0.1), SubTest("TestPin", "skipped", 0.0, EVIL, EVIL)]),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    need_programs("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("the package playwright is not installed: pip install 'kmatrix[browser]', or make test-packages")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report of real cells, and of rows of another kind."""
    directory = tmp_path_factory.mktemp("report")
    page = directory / "page.html"
    page.write_text(html.render(real.records(directory), directory, commands=COMMANDS))
    return page.as_uri()


@pytest.fixture
def page(browser: Any, file: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report, open; a parameter is what its window is like. An error of a script, or a request for anything but the file, fails the test."""
    context = browser.new_context(**({"viewport": DESK} | getattr(request, "param", {})))
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    opened.on(
        "request",
        lambda asked: None if asked.url.split("#")[0] == file or asked.url.startswith("data:") else wrong.append(asked.url),
    )
    opened.goto(file)
    yield opened
    context.close()
    assert wrong == []


def tile(page: Any, cell: str) -> Any:
    return page.locator(f'#matrix a.tile[data-cell="{cell}"]')


def test_the_table_has_a_cell_for_each_record(page: Any) -> None:
    assert page.locator("#matrix a.tile").count() == 17
    assert page.get_by_role("link", name="lopsided on 6.1-arm64: not as promised, full→refusal").is_visible()
    assert page.get_by_role("columnheader", name="arm64").count() == 1
    assert page.locator("#matrix tr.kind").all_inner_texts() == ["COLLECTORS", "TESTSring.test"]
    assert tile(page, "openat@5.4-arm64").inner_text() == "partial"
    assert tile(page, "openat@5.4-arm64").locator("use").get_attribute("href") == "#sign-partial"


def test_a_cell_opens_to_its_story_and_closes(page: Any) -> None:
    tile(page, "lopsided@6.1-arm64").click()
    story = page.locator("#story")
    assert story.locator("h2").inner_text() == "lopsided on 6.1-arm64"
    story.get_by_text("a number is used as a pointer").wait_for()
    assert story.locator("h3").all_inner_texts() == [
        "Expected",
        "Observed",
        "Diagnosis",
        "What was tried",
        "Logs",
        "Time",
        "Reproduce",
        "Ran on",
    ]
    assert "tiny.bpf.c" in story.locator(".source figcaption").inner_text()
    assert page.url.endswith("#cell=lopsided%406.1-arm64")
    assert page.title() == "lopsided@6.1-arm64: full→refusal (kmatrix)"
    log = story.locator("details.log").first
    assert not log.locator("pre").is_visible()
    log.locator("summary").click()
    log.get_by_text("R6 invalid mem access 'scalar'").wait_for()
    assert log.locator(".of-source").count() > 0
    page.keyboard.press("Escape")
    assert story.is_hidden()
    assert page.evaluate("document.activeElement.dataset.cell") == "lopsided@6.1-arm64"


def test_the_console_is_in_the_page(page: Any) -> None:
    tile(page, "deadly@6.1-x86_64").click()
    log = page.locator("#story details.log", has_text="Console")
    log.locator("summary").click()
    log.get_by_text("Kernel panic - not syncing: sysrq triggered crash").first.wait_for()


@pytest.mark.parametrize("address", ["#cell=guarded-callback@5.4-arm64", "#guarded-callback@5.4-arm64"])
def test_an_address_opens_its_cell(page: Any, file: str, address: str) -> None:
    page.goto("about:blank")
    page.goto(file + address)
    assert page.locator("#story h2").inner_text() == "guarded-callback on 5.4-arm64"
    page.goto(file + "#cell=openat@6.1-x86_64")
    assert page.locator("#story h2").inner_text() == "openat on 6.1-x86_64"
    page.go_back()
    page.locator("#story h2", has_text="guarded-callback").wait_for()


def test_an_address_without_a_cell_says_so(page: Any, file: str) -> None:
    page.goto(file + "#cell=nothing@5.4-arm64")
    page.get_by_role("status").get_by_text("There is no cell nothing@5.4-arm64 in this report").wait_for(state="attached")
    assert page.locator("#story").is_hidden()


def test_a_search_leaves_what_it_finds(page: Any) -> None:
    page.locator("#find").fill("pointer arm64")
    assert page.locator("#matrix a.tile:not(.out)").all_inner_texts() == ["full→refusal"]
    assert page.get_by_role("status").inner_text() == "1 of 17 cells"
    assert page.locator("#findings li").count() == 1
    assert "q=pointer+arm64" in page.url
    page.locator("#find").fill("no such thing")
    page.get_by_role("button", name="Show all").last.click()
    tile(page, "openat@5.4-arm64").wait_for()
    assert page.locator("#matrix a.tile").count() == 17


def test_a_choice_of_colours_and_arches_leaves_those(page: Any) -> None:
    page.get_by_role("checkbox", name="partial").check()
    assert page.locator("#matrix a.tile:not(.out)").all_inner_texts() == ["partial", "partial"]
    page.get_by_role("checkbox", name="x86_64").check()
    assert page.locator("#matrix a.tile").count() == 1
    assert page.locator("#findings").is_hidden()


def test_the_keyboard_goes_through_the_cells(page: Any) -> None:
    assert page.locator('#matrix a.tile[tabindex="0"]').count() == 1
    tile(page, "openat@5.4-x86_64").focus()
    focused = "document.activeElement.dataset.cell"
    for key, cell in (
        ("ArrowRight", "openat@6.1-x86_64"),  # 5.10 has no record of it
        ("End", "openat@6.12-arm64"),
        ("ArrowLeft", "openat@5.4-arm64"),
        ("ArrowUp", "guarded-callback@5.4-arm64"),
        ("Home", "guarded-callback@5.4-x86_64"),
    ):
        page.keyboard.press(key)
        assert page.evaluate(focused) == cell
    page.keyboard.press("Enter")
    page.locator("#story h2", has_text="guarded-callback").wait_for()
    assert page.evaluate("document.activeElement.id") == "story-title"
    page.keyboard.press("n")
    page.locator("#story h2", has_text="on 5.4-arm64").wait_for()
    page.keyboard.press("p")
    page.locator("#story h2", has_text="on 5.4-x86_64").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("n")  # typed, and no key of the page's
    assert page.locator("#find").input_value() == "n"


def test_a_row_is_shown_side_by_side(page: Any) -> None:
    page.get_by_role("link", name="openat", exact=True).click()
    lines = page.locator("#compare tbody tr")
    lines.first.wait_for()
    runs = lines.filter(has=page.get_by_role("rowheader", name="runs", exact=True))
    assert runs.locator("td").all_inner_texts() == ["core-perf", "core-ringbuf", "core-perf", "core-ringbuf"]
    assert page.get_by_role("rowheader", name="feature ringbuf").is_visible()
    assert page.get_by_role("rowheader", name="feature btf", exact=True).count() == 0
    page.get_by_label("also what is the same everywhere").check()
    assert page.get_by_role("rowheader", name="feature btf", exact=True).is_visible()
    assert page.locator("#tools").is_hidden()
    page.locator("#compare a.tile").first.click()
    page.locator("#story h2", has_text="openat on 5.4-x86_64").wait_for()
    assert page.locator("#compare").is_visible()
    page.locator("#story").get_by_role("button", name="Close").click()
    page.get_by_role("link", name="All cells").click()
    assert page.locator("#compare").is_hidden()
    assert page.locator("#matrix").is_visible()


def test_what_only_red_cells_have_is_marked(page: Any, file: str) -> None:
    page.goto(file + "#row=lopsided")
    marked = page.locator("#compare tbody tr").filter(has=page.locator("td.other"))
    marked.first.wait_for()
    assert "program enter" in marked.locator("th").all_inner_texts()
    assert page.locator("#compare td.other", has_text="does not load").count() == 1


def test_commands_and_links_are_copied(page: Any) -> None:
    tile(page, "lopsided@6.1-arm64").click()
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { window.copied = text; }; }")
    page.locator("#story .command").first.get_by_role("button").click()
    page.locator("#story .command").first.get_by_text("Copied").wait_for()
    assert page.evaluate("copied").startswith("pytest ")
    page.get_by_role("button", name="Copy a link to this cell").click()
    page.get_by_role("button", name="Copy a link to this cell").get_by_text("Copied").wait_for()
    assert page.evaluate("copied").endswith("page.html#cell=lopsided%406.1-arm64")
    page.evaluate("() => { navigator.clipboard.writeText = async () => { throw new Error('not in a file'); }; }")
    page.locator("#story .command").first.get_by_role("button").click()
    page.get_by_text(re.compile("Copied|Select it by hand")).first.wait_for()


GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_it_is_dark_where_the_system_is_and_can_be_switched(page: Any, file: str) -> None:
    dark = page.evaluate(GROUND)
    switch = page.locator("#theme")
    assert switch.inner_text() == "Colours: as the system"
    switch.click()
    assert (switch.inner_text(), page.evaluate(GROUND) != dark) == ("Colours: light", True)
    for _ in range(5):  # the browser may load the page again before it has stored what was chosen
        page.reload()
        if switch.inner_text() == "Colours: light":
            break
    assert switch.inner_text() == "Colours: light"  # as it was left
    page.goto(file + "#theme=dark")
    assert (switch.inner_text(), page.evaluate(GROUND)) == ("Colours: dark", dark)
    page.emulate_media(media="print")
    assert page.evaluate(GROUND) == "rgb(255, 255, 255)"  # paper is light
    assert page.locator("#find").is_hidden()
    assert page.locator("#tones").is_visible()  # the legend


@pytest.mark.parametrize("page", [{"viewport": PHONE}], indirect=True)
def test_it_is_read_on_a_phone(page: Any) -> None:
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 400
    assert page.locator("#matrix.tight").count() == 1
    assert tile(page, "openat@5.4-arm64").get_attribute("aria-label") == "openat on 5.4-arm64: partial"
    tile(page, "lopsided@6.1-arm64").click()
    page.locator("#story .steps h3").first.wait_for()
    assert page.evaluate(width) == 400
    assert page.locator("#story").bounding_box()["width"] == 400
    assert page.evaluate("document.getElementById('main').inert")
    page.get_by_role("button", name="Close the story").click()
    assert not page.evaluate("document.getElementById('main').inert")


def test_what_a_cell_says_is_text(page: Any) -> None:
    tile(page, "test:ring.test:TestPin@5.4-arm64").click()
    page.locator("#story").get_by_text(EVIL).first.wait_for()
    page.locator("#story details.log summary").click()
    page.locator("#story pre", has_text=EVIL).wait_for()
    assert page.locator("img").count() == 0


def test_a_browser_that_cannot_unpack_is_told_what_is_known(browser: Any, file: str) -> None:
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(file + "#cell=lopsided@6.1-arm64")
    story = page.locator("#story")
    assert "R6 invalid mem access 'scalar'" in story.inner_text()
    assert "pytest 'red/lopsided/collector.toml::lopsided[6.1-arm64]'" in story.inner_text()
    assert "This browser cannot unpack them" in story.inner_text()
    page.goto(file + "#row=openat")
    assert "core-ringbuf needs ringbuf; core-perf has all it needs" in page.locator("#compare").inner_text()
    page.close()


def test_without_scripts_there_are_the_words(browser: Any, file: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file)
    assert "fentrysched\n  refusal: 5.10-x86_64\n  full: 6.1-x86_64" in page.locator("noscript pre").inner_text()
    context.close()


def test_a_page_of_one_cell_has_no_arches_to_choose(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html.render([record()], tmp_path))
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("#arches input").count() == 0
    assert page.locator("#findings").is_hidden()
    assert json.loads(page.locator("#data").text_content())["schema"] == "kmatrix.report.page/1"
    page.close()
