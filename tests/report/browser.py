"""What a person meets in the report's page, asked of a real browser: each function asserts one thing."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

SECTIONS = "decision gates gallery curves ablation texts graph runs changes provenance".split()
DESKTOP, PHONE, SMALL = 1280, 390, 360
SAMPLE = "details:not(.gate), details.gate:nth-of-type(-n + 3), details.gate:has(summary .badge:not(.go))"
PRESSES = 900  # of the Tab key: more than any page here has stops
AXE = {"resultTypes": ["violations"]}  # what else it could tell costs time only
STOPS = """() => [...document.querySelectorAll('a[href], summary, audio[controls], [tabindex]')]
  .filter(one => one.checkVisibility())"""
STOP = f"""() => {{
  const one = document.activeElement, box = one.getBoundingClientRect(), look = getComputedStyle(one);
  const header = document.querySelector('header'), below = header.getBoundingClientRect().bottom;
  const ring = look.outlineStyle !== 'none' && parseFloat(look.outlineWidth) >= 2;
  const hidden = !one.closest('header, .skip') && (box.bottom <= below || box.top >= innerHeight);
  const place = ({STOPS})().indexOf(one), name = one.outerHTML.slice(0, 90);
  return {{place, name, body: one === document.body, ring, hidden}};
}}"""


@dataclass
class Opened:
    """A page with what it said and asked for since it was opened."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, file: Path, width: int = DESKTOP, scheme: str = "light") -> Iterator[Opened]:
    """The page in a window of that width and colour scheme."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    seen = Opened(context.new_page())
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    context.on("request", lambda request: seen.requests.append(request.url))
    seen.page.goto(file.as_uri())
    try:
        yield seen
    finally:
        context.close()


def unfold(page: Page, what: str = "details") -> None:
    """Open everything that opens, or what the selector names."""
    page.evaluate("what => document.querySelectorAll(what).forEach(one => one.open = true)", what)


def is_silent_and_alone(seen: Opened) -> None:
    """Nothing on the console, and no request but for the page itself and what is inside it."""
    unfold(seen.page)
    seen.page.evaluate(
        "async () => { for (const one of document.querySelectorAll('audio')) {"
        " one.muted = true; await one.play(); one.pause(); } }"
    )
    seen.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert seen.complaints == []
    asked = [url for url in seen.requests if not url.startswith("data:")]
    assert asked == [seen.page.url.split("#")[0]]


def shows_every_section(seen: Opened) -> None:
    """Each heading is there, named in the page's own list of sections, and its section takes room."""
    for name in SECTIONS:
        heading = seen.page.locator(f"#{name}")
        assert heading.count() == 1 and heading.is_visible(), name
        section = seen.page.locator(f"section[aria-labelledby={name}]")
        assert section.count() == 1 and section.bounding_box()["height"] > 40, name


def sounds_last_as_long_as_their_files(seen: Opened, files: list[Path]) -> None:
    """Every player holds the very file of its place, and the browser finds the file's own duration."""
    players = seen.page.evaluate(
        """() => Promise.all([...document.querySelectorAll('audio')].map(one => new Promise(done => {
             const tell = () => done({source: one.src, seconds: one.duration});
             if (one.readyState) tell();
             else ['loadedmetadata', 'error'].forEach(on => one.addEventListener(on, tell));
           })))"""
    )
    assert len(players) == len(files) > 0
    for player, file in zip(players, files, strict=True):
        content = base64.b64decode(player["source"].partition("base64,")[2])
        assert content == file.read_bytes(), file
        assert soundfile.info(io.BytesIO(content)).frames > 0
        assert player["seconds"] is not None, f"{file}: not playable"
        assert abs(player["seconds"] - soundfile.info(file).duration) < 1e-3, file


def pictures_are_drawn(seen: Opened) -> None:
    """Every picture decodes to the size that the page says."""
    sizes = seen.page.evaluate(
        """() => Promise.all([...document.images].map(async one => {
             const sides = ['width', 'height'];
             await one.decode().catch(() => null);
             return [one.naturalWidth, one.naturalHeight, ...sides.map(side => +one.getAttribute(side))];
           }))"""
    )
    assert sizes and all(one[:2] == one[2:] and min(one) > 0 for one in sizes)


def fits_its_window(seen: Opened) -> None:
    """No sideways scroll, folded or not; wide tables scroll inside their own region."""
    for fold in ("false", "true"):
        seen.page.evaluate(f"document.querySelectorAll('details').forEach(one => one.open = {fold})")
        wide, window = seen.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window, f"{wide} px in a window of {window}"


def tab_goes_through_all_in_order(seen: Opened) -> None:
    """Tab reaches every stop, in document order and in sight, and leaves the page at its end."""
    count = seen.page.evaluate(f"({STOPS})().length")
    _walk(seen.page, "Tab", list(range(count)))


def tab_goes_back(seen: Opened) -> None:
    """From the last stop Shift and Tab lead to the first and out of the page."""
    count = seen.page.evaluate(f"() => {{ const all = ({STOPS})(); all.at(-1).focus(); return all.length; }}")
    _walk(seen.page, "Shift+Tab", list(range(count - 1))[::-1])


def _walk(page: Page, key: str, order: list[int]) -> None:
    """``key`` reaches the stops in this order, each in sight; a player's own buttons count as one."""
    places: list[int] = []
    for _ in range(PRESSES):
        page.keyboard.press(key)
        stop = page.evaluate(STOP)
        if stop["body"]:
            assert len(places) == len(order), f"{key} left the page after {len(places)} of {len(order)} stops"
            return
        assert stop["ring"], f"no visible focus on {stop['name']}"
        assert not stop["hidden"], f"focus out of sight on {stop['name']}"
        if places[-1:] != [stop["place"]]:
            places.append(stop["place"])
            assert places == order[: len(places)], f"{key} leads out of order to {stop['name']}"
    raise AssertionError(f"{key} does not leave the page: {places[-5:]}")


def opens_by_keyboard(seen: Opened) -> None:
    """Enter unfolds, Space folds again; a link to a folded gate unfolds it; arrows scroll a wide table."""
    page = seen.page
    summary = page.locator("details.gate > summary").first
    folded = page.locator("details.gate").first
    summary.focus()
    for key, state in (("Enter", True), ("Space", False)):
        page.keyboard.press(key)
        assert folded.evaluate("one => one.open") is state, key
    page.locator("table.gates a[href='#gate-B3']").focus()
    page.keyboard.press("Enter")
    inside = page.locator("#gate-B3")
    assert inside.evaluate("one => one.closest('details').open"), "the link does not unfold its gate"
    assert inside.evaluate("one => one.getBoundingClientRect().top < innerHeight")
    table = page.locator("#gate-B3 .scroll")
    if table.evaluate("one => one.scrollWidth > one.clientWidth"):
        table.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("one => one.scrollLeft > 0", arg=table.element_handle(), timeout=2000)


def text_can_be_selected(seen: Opened) -> None:
    """All of it, that in drawings too."""
    unfold(seen.page)
    barred = seen.page.evaluate(
        "[...document.body.querySelectorAll('*')].filter(one => getComputedStyle(one).userSelect === 'none').length"
    )
    assert barred == 0
    for name in ("svg.chart text.tick", ".graph svg text"):
        said, got = seen.page.evaluate(
            """name => { const one = document.querySelector(name); getSelection().selectAllChildren(one);
                 return [one.textContent, getSelection().toString()]; }""",
            name,
        )
        assert said and said == got, name


def axe_finds_nothing(seen: Opened) -> None:
    """No accessibility fault of any weight."""
    found: list[dict[str, Any]] = Axe().run(seen.page, options=AXE).response["violations"]
    faults = [f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:120]}" for one in found]
    assert not faults, faults
