"""The page in a real browser: silent, alone, readable at each width and in both schemes, usable by keyboard.

Each assertion is shown to fail on a page broken for it (BROKEN).
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmpt.report import build_report, draw_html, html, record
from mmpt.report.runs import record_run
from tests.report.sample_run import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium on this machine: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason='pip install -e ".[dev]" brings playwright')
browser_checks = pytest.importorskip("tests.report.browser", reason='pip install -e ".[dev]" brings axe')
DESKTOP, PHONE, SMALL = browser_checks.DESKTOP, browser_checks.PHONE, browser_checks.SMALL


@dataclass(frozen=True)
class Drawn:
    """A page on disk and the sounds in it, in their order."""

    file: Path
    sounds: list[Path]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawn]:
    """A run that passes, one that fails with past runs and a stale stage, and one that was stopped."""
    folder = tmp_path_factory.mktemp("browser")
    made = {}
    for name, bad, stop in (
        ("go", (), None),
        ("no-go", ("B3", "C3", "Q2"), None),
        ("stopped", (), "generate"),
    ):
        root = folder / name / "smoke"
        make_run(root, items=2, bad=bad, stop_before=stop)
        if name == "no-go":
            state = build_report(root)["state"]
            for decision in ("GO", "CANNOT-DECIDE"):
                record_run(root, {**state, "decision": decision})
        record(root)
        report = build_report(root, stale={"train": "train.steps"} if name == "no-go" else None)
        file = root / "report" / "index.html"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(draw_html, "SHOWN", 1)  # so that two items fill the open and the folded part
            file.write_text(html(report, root), encoding="utf-8")
        views = [view for item in report["data"]["gallery"] for view in item["views"]]
        sounds = [root / report["media_base"] / one["path"] for one in views if "seconds" in one]
        made[name] = Drawn(file, sounds)
    return made


@pytest.mark.parametrize("name", ["go", "no-go", "stopped"])
def test_it_is_silent_asks_nothing_and_holds_its_media(browser, pages, name):
    with browser_checks.opened(browser, pages[name].file) as seen:
        browser_checks.is_silent_and_alone(seen)
        if name != "stopped":
            browser_checks.shows_every_section(seen)
            browser_checks.sounds_last_as_long_as_their_files(seen, pages[name].sounds)
            browser_checks.pictures_are_drawn(seen)
            browser_checks.text_can_be_selected(seen)


@pytest.mark.parametrize(("name", "width"), [("go", DESKTOP), ("no-go", PHONE)])
def test_keys_alone_are_enough(browser, pages, name, width):
    with browser_checks.opened(browser, pages[name].file, width) as seen:
        browser_checks.tab_goes_through_all_in_order(seen)
        browser_checks.opens_by_keyboard(seen)


def test_the_way_back_is_the_same(browser, pages):
    with browser_checks.opened(browser, pages["go"].file) as seen:
        browser_checks.tab_goes_back(seen)


@pytest.mark.parametrize(
    ("name", "width", "scheme", "unfolded"),
    [
        # Of gates that passed a few: they look alike, and axe takes a second for ten of them.
        ("no-go", DESKTOP, "light", browser_checks.SAMPLE),
        ("no-go", PHONE, "dark", browser_checks.SAMPLE),
        ("stopped", PHONE, "light", None),
    ],
    ids=["no-go-light", "no-go-dark", "stopped"],
)
def test_axe_finds_no_fault(browser, pages, name, width, scheme, unfolded):
    with browser_checks.opened(browser, pages[name].file, width, scheme) as seen:
        if unfolded:
            browser_checks.unfold(seen.page, unfolded)
        browser_checks.axe_finds_nothing(seen)


@pytest.mark.parametrize("name", ["go", "no-go", "stopped"])
def test_it_fits_its_window(browser, pages, name):
    with browser_checks.opened(browser, pages[name].file) as seen:
        for width in (DESKTOP, 768, PHONE, SMALL, 320):
            seen.page.set_viewport_size({"width": width, "height": 800})
            browser_checks.fits_its_window(seen)


def test_dark_and_light_are_two_pages(browser, pages):
    grounds = set()
    for scheme in ("light", "dark"):
        with browser_checks.opened(browser, pages["go"].file, scheme=scheme) as seen:
            grounds.add(seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def _styled(rule: str) -> Callable[[str], str]:
    return lambda page: page.replace("</style>", f"{rule}</style>")


def _put(markup: str) -> Callable[[str], str]:
    return lambda page: page.replace("<main", f"{markup}<main", 1)


def _first_sound(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda page: re.sub(r"(?<=audio/wav;base64,)[^\"]+", lambda hit: change(hit.group()), page, count=1)


BROKEN = {
    "a script": ("is_silent_and_alone", _put("<script>1</script>")),
    "a picture from beside": ("is_silent_and_alone", _put('<img src="beside.png" alt="x">')),
    "a picture from afar": ("is_silent_and_alone", _put('<img src="http://127.0.0.1:9/x.png" alt="x">')),
    "a section without its heading": ("shows_every_section", _styled("#ablation { display: none }")),
    "a section that is gone": ("shows_every_section", lambda page: page.replace('="runs"', '="ruins"')),
    "a cut sound": ("sounds_last_as_long_as_their_files", _first_sound(lambda text: text[:4000])),
    "another sound": (
        "sounds_last_as_long_as_their_files",
        _first_sound(lambda text: text[:-8] + "AAAAAAA="),
    ),
    "a cut picture": (
        "pictures_are_drawn",
        lambda page: page.replace('src="data:image/png;base64,', 'src="data:image/png;base64,AAAA', 1),
    ),
    "a wide line": ("fits_its_window", _put('<div style="width: 1400px">wide</div>')),
    "a wide line when unfolded": (
        "fits_its_window",
        _put('<details><summary>x</summary><div style="width: 1400px">wide</div></details>'),
    ),
    "an order of one's own": (
        "tab_goes_through_all_in_order",
        lambda page: page.replace('<a href="#graph"', '<a tabindex="3" href="#graph"', 1),
    ),
    "an unreachable link": (
        "tab_goes_through_all_in_order",
        lambda page: page.replace('<a href="#graph"', '<a tabindex="-1" href="#graph"', 1),
    ),
    "no focus to see": ("tab_goes_through_all_in_order", _styled(":focus-visible { outline: none }")),
    "focus under the header": (
        "tab_goes_through_all_in_order",
        _styled("html { scroll-padding-top: 0 !important } .top { height: 500px }"),
    ),
    "nothing that opens": (
        "opens_by_keyboard",
        lambda page: page.replace('<details class="gate">', '<details class="gate" inert>', 1),
    ),
    "a link to what stays folded": (
        "opens_by_keyboard",
        lambda page: page.replace(' id="gate-B3"', "").replace(
            '<details class="gate"', '<details class="gate" id="gate-B3"', 1
        ),
    ),
    "barred text": ("text_can_be_selected", _styled(".chart text { user-select: none }")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_page_is_caught(browser, pages, tmp_path, what):
    name, change = BROKEN[what]
    whole = pages["go"].file.read_text(encoding="utf-8")
    broken = change(whole)
    assert broken != whole
    (tmp_path / "index.html").write_text(broken, encoding="utf-8")
    check = getattr(browser_checks, name)
    if name == "sounds_last_as_long_as_their_files":
        check = functools.partial(check, files=pages["go"].sounds)
    with (
        browser_checks.opened(browser, tmp_path / "index.html") as seen,
        pytest.raises(AssertionError),
    ):
        check(seen)


def test_axe_names_each_fault(browser, tmp_path):
    """On a small page: axe takes ten seconds for a report."""
    page = '<!doctype html><html><title>x</title><main><h1 style="color: #bbb">Pale</h1><img src="x.png"></main></html>'
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    with (
        browser_checks.opened(browser, tmp_path / "index.html") as seen,
        pytest.raises(AssertionError) as caught,
    ):
        browser_checks.axe_finds_nothing(seen)
    assert all(f" {rule}: " in str(caught.value) for rule in ("color-contrast", "image-alt", "html-has-lang"))
