"""The report as JUnit XML: one suite per gate, one case per check."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from mmpt.gating.hints import typed
from mmpt.gating.text import check_name
from mmpt.report.margins import sentence
from mmpt.report.metrics import meaning

UNSPOKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # what XML 1.0 cannot hold


def junit(report: Mapping[str, Any]) -> str:
    """Failed blocking checks are failures, undecided ones errors, what does not apply is skipped."""
    name = f"gates of {report['profile']}: {report['decision']['headline']}"
    suites = ElementTree.Element("testsuites", name=_said(name))
    for verdict in report["verdicts"]:
        suite = ElementTree.SubElement(suites, "testsuite", name=_said(f"{verdict['gate']} {verdict['title']}"))
        checks = verdict["checks"] or [None]
        for check in checks:
            _case(suite, verdict, check, report["command"])
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
        suite.set("tests", str(len(checks)))
    for name in ("tests", "failures", "errors", "skipped"):
        suites.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    ElementTree.indent(suites, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _case(
    suite: ElementTree.Element, verdict: Mapping[str, Any], check: Mapping[str, Any] | None, command: str
) -> None:
    name = check_name(check) if check is not None else "evidence"
    case = ElementTree.SubElement(suite, "testcase", classname=verdict["gate"], name=_said(name))
    if check is None:
        tag = {"NO_GO": "failure", "CANNOT_DECIDE": "error", "NOT_APPLICABLE": "skipped"}.get(verdict["verdict"])
        if tag is not None:
            ElementTree.SubElement(case, tag, message=_said(verdict["reason"]))
        return
    blocking = check["severity"] == "block"
    shown = sentence(check)
    advice = f"measured: {meaning(check['metric'])}\nnext: {typed(check['remedy'], command)}"
    if check["status"] == "fail" and blocking:
        element = ElementTree.SubElement(case, "failure", message=_said(f"{check['message']}: {shown}"))
        element.text = _said(advice)
    elif check["status"] == "cannot_decide" and blocking:
        element = ElementTree.SubElement(case, "error", message=_said(check["note"] or check["message"]))
        element.text = _said(f"{advice}\nfound: {shown}")
    elif check["status"] == "not_applicable":
        ElementTree.SubElement(case, "skipped", message=_said(check["note"]))
    elif check["status"] in ("warn", "waived", "cannot_decide"):
        ElementTree.SubElement(case, "system-out").text = _said(
            f"{check['status']}: {check['note'] or check['message']}; {shown}"
        )


def _said(text: str) -> str:
    return UNSPOKEN.sub("?", text)
