"""The HTML page: escaped, self-contained, the same in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import ClassVar

import pytest

from mmpt.report import html, page_gallery
from tests.report.sample_run import HOSTILE

SECTIONS = {"decision", "gates", "gallery", "curves", "ablation", "texts", "graph", "changes", "provenance"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Elements and the links, ids and sources in them."""

    VOID: ClassVar = {"meta", "link", "img", "br", "rect", "line", "circle", "path", "polyline"}

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.attributes if attributes.get(name)]


@pytest.fixture(scope="module")
def page(good_run, report) -> str:
    return html(report, good_run)


@pytest.fixture(scope="module")
def parsed(page) -> Page:
    return Page(page)


def test_elements_are_closed(parsed):
    assert parsed.open == []


def test_captions_cannot_become_markup(page, parsed):
    assert HOSTILE not in page and "script" not in parsed.tags
    assert not [name for _, attributes in parsed.attributes for name in attributes if name.startswith("on")]


def test_every_section_is_there_and_every_link_leads_somewhere(parsed):
    ids = parsed.values("id")
    assert set(ids) >= SECTIONS and len(ids) == len(set(ids))
    assert {link[1:] for link in parsed.values("href") if link.startswith("#")} <= set(ids)


def test_the_page_is_alone(page, parsed):
    for source in [
        *parsed.values("src"),
        *(link for link in parsed.values("href") if not link.startswith("#")),
    ]:
        assert source.startswith("data:"), source[:80]
    assert not re.findall(r"""(?:url\(|@import|https?:)""", page)


def test_pictures_and_sounds_have_names(parsed):
    for tag, attributes in parsed.attributes:
        if tag == "img":
            assert attributes["alt"] and attributes["width"] and attributes["height"]
        if tag == "audio":
            assert attributes["aria-label"] and "controls" in attributes


def test_charts_have_names_and_their_numbers(page, parsed):
    charts = [
        attributes for tag, attributes in parsed.attributes if tag == "svg" and attributes.get("class") == "chart"
    ]
    assert len(charts) >= 5 and all(one["role"] == "img" and one["aria-label"] for one in charts)
    # the tables of the ablation and of the small evaluations stand open beside them
    assert page.count("<summary>Numbers</summary>") == len(charts) - 2


def test_without_a_root_media_are_linked_beside_the_page(good_run, report):
    sources = list(Page(html(report)).values("src"))
    assert sources and all((good_run / "report" / one).resolve().is_file() for one in sources)


def test_beyond_the_budget_media_are_linked(good_run, report, monkeypatch):
    monkeypatch.setattr(page_gallery, "INSIDE", 50_000)
    sources = Page(html(report, good_run)).values("src")
    inside = [one for one in sources if one.startswith("data:")]
    assert inside and len(inside) < len(sources) and sum(map(len, inside)) < 70_000


def test_the_same_report_gives_the_same_page(good_run, report, page):
    assert html(report, good_run) == page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_browser_opens_it_without_complaint(tmp_path, page):
    file = tmp_path / "index.html"
    file.write_text(page)
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={tmp_path / 'browser'}",
        "--window-size=390,900",
        "--virtual-time-budget=2000",
        "--dump-dom",
        f"file://{file}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert set(re.findall(r' id="([^"]+)"', done.stdout)) >= SECTIONS
