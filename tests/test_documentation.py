"""The READMEs name only what exists: links, files, commands, tables with whole rows, examples that run."""

import re
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for path in [*TOP.glob("*.md"), *TOP.glob("mmpt/**/*.md"), *TOP.glob("gates/*.md")]
    if path.name != "CHANGELOG.md"
)
DRAWN = {"gates/FAULTS.md", "mmpt/profile/KEYS.md"}  # by a program, from results and from the schema
DOIT = set(tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["doit"]["plugins"]["command"])
REFUSED = {"clean", "dumpdb", "forget", "ignore", "info", "reset-dep", "strace", "tabcompletion"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))


def lines_outside_code(text: str) -> list[str]:
    """The lines of a page that are neither indented code nor between fences."""
    kept, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            kept.append(line)
    return kept


def tables(text: str) -> list[list[str]]:
    """Runs of consecutive lines that begin with a bar."""
    found: list[list[str]] = [[]]
    for line in lines_outside_code(text):
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [rows for rows in found if rows]


def cells(row: str) -> int:
    return len(re.split(r"(?<!\\)\|", row.strip().strip("|")))


def test_the_readme_is_short():
    assert (TOP / "README.md").stat().st_size <= 10 * 1024


@every_page
def test_a_page_that_is_written_by_hand_is_at_most_12_kb(page):
    assert page.stat().st_size <= 12 * 1024 or page.relative_to(TOP).as_posix() in DRAWN


@every_page
def test_every_row_of_a_table_has_the_cells_of_its_head(page):
    for rows in tables(page.read_text()):
        assert len(rows) > 2 and re.fullmatch(r"[|\-: ]+", rows[1]), rows[0]
        assert {row: cells(row) for row in rows} == {row: cells(rows[0]) for row in rows}


@every_page
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", "\n".join(lines_outside_code(page.read_text())))
    inside = [target for target in targets if "://" not in target]
    assert [target for target in inside if not (page.parent / target).exists()] == []


@every_page
def test_named_files_exist(page):
    named = set(re.findall(r"`((?:mmpt|tests|csrc|gates|schemas|\.ci|\.github)/[\w./-]+\w)`", page.read_text()))
    assert sorted(one for one in named if not (TOP / one).exists()) == []


@every_page
def test_named_commands_exist(page):
    named = set(re.findall(r"`doit ([a-z][a-z-]+)(?![\w=/.-])", page.read_text()))
    from mmpt.build.stage_table import STAGES

    assert sorted(named - DOIT - {stage.name for stage in STAGES}) == []


def test_the_page_of_the_build_names_every_command():
    text = (TOP / "mmpt/build/README.md").read_text()
    missing = [name for name in sorted(DOIT - REFUSED - {"run"}) if not re.search(rf"doit {name}\b", text)]
    assert missing == []


def test_the_readme_names_every_gate():
    text = (TOP / "README.md").read_text()
    gates = sorted({path.name.split("_")[0].upper() for path in (TOP / "gates").glob("[a-z][0-9]_*.py")})
    assert gates and [gate for gate in gates if not re.search(rf"^\| .*\b{gate}\b", text, re.M)] == []


def test_the_library_example_of_the_readme_runs():
    text = (TOP / "README.md").read_text()
    code = re.search(r"## As a library\n\n(?:\S.*\n)+\n((?: {4}.*\n|\n)+)", text)[1]
    exec("import torch\n" + re.sub(r"^ {4}", "", code, flags=re.M), known := {})
    assert known["new"].grad.shape == known["new"].shape
