"""The report as one HTML page without scripts and without a network: pictures and sounds are inside it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from mmpt.gating.text import number
from mmpt.report.charts import tone
from mmpt.report.page_charts import ablation, along_the_way, curve_groups
from mmpt.report.page_gallery import Media, galleries
from mmpt.report.page_gates import (
    SIGNS,
    TONES,
    changed,
    counts,
    gate_row,
    graph,
    key_numbers,
    past_runs,
    stage_rows,
)
from mmpt.report.remedies import outdated, remedies, warnings

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).resolve().parent
SHOWN = 4  # gallery items per task in sight; the rest opens below them


def html(report: Mapping[str, Any], root: Path | None = None) -> str:
    """Draw the page.

    Args:
        report: as ``build_report`` returns it.
        root: the artifact folder that media paths start from; without it media are linked from the page's
            place in ``report/`` instead of being put into the page.
    """
    data, stages = report["data"], stage_rows(report)
    return template().render(
        report=report,
        decision=report["decision"],
        short=_short(report["decision"]),
        style=HERE.joinpath("page.css").read_text(encoding="utf-8"),
        outdated=outdated(report),
        todo=remedies(report),
        warnings=warnings(report),
        counts=counts(report["verdicts"]),
        gates=[gate_row(one, report["command"]) for one in report["verdicts"]],
        stages=stages,
        built=[row["name"] for row in stages if row["built"]],
        graph=graph(stages),
        curves=curve_groups(data["curves"]),
        ablation=ablation(data["ablation"], report["verdicts"]),
        galleries=galleries(data["gallery"], Media(report["media_base"], root)),
        trend=along_the_way(data["trend"]),
        runs=past_runs(report["runs"]),
        key_numbers=key_numbers(report),
        changed=changed(report["changes"]),
        number=number,
        shown=SHOWN,
        tone=tone,
        tones=TONES,
        signs=SIGNS,
    )


def _short(decision: Mapping[str, Any]) -> str:
    """The decision for a headline: its tasks, and whether it is softened; the page has the whole below it."""
    line, _, more = decision["headline"].partition(" (")
    return f"{line} (softened)" if more else line


@functools.cache
def template() -> Template:
    """The page's template, compiled once in a process."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"coded": coded, "capitalize_first": capitalized}
    return environment.get_template("page.html.j2")


def coded(text: str) -> Markup:
    """Escaped text with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def capitalized(text: str) -> str:
    """With a large first letter, for a sentence; the rest as it is."""
    return text[:1].upper() + text[1:]
