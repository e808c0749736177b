"""Draws results.json: `python -m tests.faults.table` writes gates/FAULTS.md and the counts in gates/README.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.catalogue import FAULTS, Fault
from tests.faults.run import PROFILES, is_there, parts, read_results

GATES = Path(__file__).resolve().parents[2] / "gates"
PAGE, README = GATES / "FAULTS.md", GATES / "README.md"
BEGIN, END = "<!-- faults: python -m tests.faults.table -->\n", "<!-- end of faults -->\n"
NOT_RUN = "not run yet"
HEAD = """# Faults, and what stopped them

Each row is one mutation of `tests/faults/catalogue.py`, put into the source (or a profile, or the maker of an imported
run) of a clean run. The check under "expected" was named before the run. A cell holds the exit code of `doit gates` (of
`doit` where a stage was refused or broke) and the check that stopped the fault. In brackets: another check than the
expected one, which counts as a miss. **open**: nothing stopped it. Corpora: *generated*, *captions* (the same media as
files, without attributes, so without an oracle), *imported* (a run in the upstream formats; its clean run is short and
untrained, so only what is new in the mutant counts).

`python -m tests.faults.run` runs what is missing; `python -m tests.faults.table` draws this page.

"""


def page(results: Mapping[str, Any]) -> str:
    """gates/FAULTS.md."""
    head = ["fault", "what is wrong", "had by", "expected", *PROFILES]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for fault in FAULTS:
        told = [cell(fault, corpus, results) for corpus in PROFILES]
        expected = fault.expects.split(": ")[-1] or "none"
        lines.append("| " + " | ".join([fault.id, fault.what, thread(fault), expected, *told]) + " |")
    return HEAD + "\n".join(lines) + "\n"


def thread(fault: Fault) -> str:
    """A link to where people had it."""
    if not fault.thread:
        return ""
    name, number = fault.thread.split("#")
    return f"[{name.split('/')[1]}#{number}](https://github.com/{name}/issues/{number})"


def cell(fault: Fault, corpus: str, results: Mapping[str, Any]) -> str:
    """What came out of one part, in a few words."""
    if corpus not in fault.corpora:
        return ""
    if not is_there(fault, corpus, results):
        return NOT_RUN
    found = results[f"{fault.id} {corpus}"]
    if found["stopped"] == "none":
        return "**open**" + (f" ({found['decision']})" if found["decision"] != "GO" else "")
    by = fault.expects if found["stopped"] == "expected" else ", ".join(found["failing"][:2])
    by = "refused" if by == fault.expects and not fault.gate else by or (found["refused"] or found["broke"])[0][:60]
    return f"{found['exit']} {by}" if found["stopped"] == "expected" else f"{found['exit']} ({by})"


def outcome(fault: Fault, corpus: str, results: Mapping[str, Any]) -> str:
    """expected, other, none or the like; empty where it was not run."""
    return results[f"{fault.id} {corpus}"]["stopped"] if is_there(fault, corpus, results) else ""


def summary(results: Mapping[str, Any]) -> str:
    """The counts for gates/README.md, and what no gate stopped."""
    found = [(fault, corpus, outcome(fault, corpus, results)) for fault, corpus in parts()]
    counts = Counter(one for _, _, one in found)
    other = counts["other"] + counts["crash"]
    dates = sorted(results[f"{fault.id} {corpus}"]["date"] for fault, corpus, one in found if one)
    when = f", {dates[0]} to {dates[-1]}" if dates else ""
    ran = f"{counts['expected']} stopped by the check named before, {other} by another or by a crash"
    part = sum(results[f"{fault.id} {corpus}"]["clean"] != "GO" for fault, corpus, one in found if one)
    lines = [
        f"{len(FAULTS)} faults, {len(found)} runs by corpus: {ran},",
        f"{counts['none']} by nothing, {counts['']} not run yet{when}. In {part} the clean run was built",
        "no further than the stage that the check rests on, and so was no GO. [FAULTS.md](FAULTS.md) has each.",
        "",
        "| area | runs | as named | otherwise | open | not run yet |",
        "|---|---|---|---|---|---|",
    ]
    for area in dict.fromkeys(fault.area for fault in FAULTS):
        mine = Counter(one for fault, _, one in found if fault.area == area)
        numbers = (mine.total(), mine["expected"], mine["other"] + mine["crash"], mine["none"], mine[""])
        lines.append(f"| {area} | " + " | ".join(map(str, numbers)) + " |")
    left = [f"{fault.id} ({corpus})" for fault, corpus, one in found if one == "none"]
    return "\n".join([*lines, "", f"Open: {', '.join(left) or 'none of those run'}."]) + "\n"


def drawn(readme: str, results: Mapping[str, Any]) -> str:
    """gates/README.md with the counts between its marks."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + summary(results) + END + rest.split(END)[1]


def main() -> None:
    """Write both files."""
    results = read_results()
    PAGE.write_text(page(results), encoding="utf-8")
    README.write_text(drawn(README.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
