"""Captions, ids, sources and licences that hold markup, the other direction, control characters, 10,000 characters:
on a terminal, and on the report's page in a real browser.
"""

import json
import shutil

import pytest

from mmpt.build.commands_records import overview_lines, story_lines
from mmpt.corpus.problems import Problem
from mmpt.report import build_report, html, record
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.plain_text import plain_line
from tests.report import sample_run

MARKUP = (
    "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'></table></div>--><style>*{display:none}"
)
TURNED = "\u202eabc \u0643\u0644\u0628 \u05db\u05dc\u05d1\u2066 x \u202d"
CONTROL = "a\x1b[31m\x07\x08\x00\x9b2Jb\x7f\u2028c"
LONG = "word" * 2500
HOSTILE = {"markup": MARKUP, "turned": TURNED, "control": CONTROL, "long": LONG, "long words": "many words " * 900}


@pytest.mark.parametrize("text", HOSTILE.values())
def test_a_line_on_a_terminal_steers_nothing(text):
    shown = plain_line(text)
    assert all(one.isprintable() or one == " " or ord(one) > 0xFF for one in shown)
    assert not set("\x1b\x07\x08\0\x9b\u202e\u2066\u2028") & set(shown)


@pytest.mark.parametrize("text", HOSTILE.values())
def test_the_story_of_a_record_steers_nothing(text):
    record_ = {"caption": text, "media": {"root": text, "path": text}, "source": text, "license": text}
    story = {
        "id": text,
        "record": record_,
        "tokens": None,
        "lost": [],
        "split": "test",
        "tasks": {"t2i": "kept"},
        "outputs": [{"step": 1, "task": "i2t", "decoding": "greedy", "path": None, "text": text, "fault": text}],
    }
    lost = [{"stage": "corpus", "id": text, "where": text, "why": text}]
    found = {"sides": {"test": 1}, "read": 1, "lost": lost, "cut": [], "unused": {}, "stale": False, "tasks": {}}
    problem = str(Problem("missing", text, text, text, "x", text, "y", "z"))
    for line in [*map(plain_line, story_lines(story)), *map(plain_line, overview_lines(found, 5)), problem]:
        assert not set("\x1b\x07\x08\0\x9b\u202e\u2028\n") & set(line)


def hostile_run(root, text):
    """The small run, whose first records' captions, ids, sources and licences are `text`."""
    sample_run.make_run(root, items=2)
    golden = root / "golden" / "data"
    for path in sorted(golden.glob("golden_*.jsonl")):
        rows = read_jsonl(path)
        rows[0] |= {"caption": text, "source": text, "license": text}
        write_jsonl(path, rows)
    for path in sorted((root / "generate" / "data").rglob("*golden_?2t.jsonl")):
        rows = read_jsonl(path)
        rows[0]["text"] = text
        write_jsonl(path, rows)
    evidence = root / "manifest" / "data" / "evidence" / "S1.json"
    measured = json.loads(evidence.read_text())
    for metric in measured["metrics"]:
        if metric["name"] in ("records_by_source", "records_by_licence", "lost_by_source"):
            metric["slice"] = text
    measured["samples"] = [{"id": text, "where": text, "kind": "missing"}]
    evidence.write_text(json.dumps(measured))
    for stage in ("golden", "generate", "manifest"):
        sample_run.sign(root, stage, sample_run.INPUTS[stage])
    shutil.rmtree(root / "render")
    sample_run.run_render(root)
    sample_run.decide(root, sample_run.load_policy(profile=sample_run.profile()), sample_run.profile())
    record(root)
    page = root / "report" / "index.html"
    page.write_text(html(build_report(root), root), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason='pip install -e ".[dev]" brings playwright')
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_the_page_shows_any_text_as_text(browser, tmp_path, name):
    text = HOSTILE[name]
    file = hostile_run(tmp_path / "smoke", text)
    said = []
    for width in (1280, 360):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else 0
        )
        page.goto(file.as_uri())
        if name in ("long", "long words"):  # a long caption does not push its own media off the screen
            assert page.evaluate("document.querySelector('.card').getBoundingClientRect().height") < 1500
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert not said and page.evaluate("window.broken") is None
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
        visible = page.inner_text("body")
        assert "circle" in visible and page.locator("h1").is_visible()
        if name == "markup":
            assert "<script>window.broken" in visible
        if name == "long":
            assert LONG[:200] in visible
        if name == "turned":  # what follows the caption is not turned around with it
            assert page.evaluate(TURNED_ALONE)
        page.close()


TURNED_ALONE = """() => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    if (!walk.currentNode.data.includes('\\u202e')) continue;
    let isolated = false;
    for (let one = walk.currentNode.parentElement; one; one = one.parentElement) {
      const bidi = getComputedStyle(one).unicodeBidi;
      if (bidi !== 'normal' || getComputedStyle(one).display !== 'inline') { isolated = true; break; }
    }
    if (!isolated) return false;
  }
  return true;
}"""
