"""One report.json of a run, and what is drawn from it: HTML, Markdown, JUnit, terminal. No torch."""

from mmpt.report.build import build_report, record
from mmpt.report.draw_html import html
from mmpt.report.draw_junit import junit
from mmpt.report.draw_markdown import markdown
from mmpt.report.draw_terminal import terminal

__all__ = ["build_report", "html", "junit", "markdown", "record", "terminal"]
