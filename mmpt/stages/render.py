"""Stage render: what the report shows, gathered once and published like any other result."""

from __future__ import annotations

from mmpt.report.collect import collect
from mmpt.store.canonical import write_json
from mmpt.store.schema import validate
from mmpt.store.stage import StageContext


def render(ctx: StageContext) -> None:
    """Write report_data.json and gallery/."""
    roots = dict(ctx.external)
    if "corpus" in ctx.inputs:
        roots.setdefault("corpus", ctx.inputs["corpus"])
    data = collect(ctx.inputs, ctx.out, roots, ctx.bar("gallery"))
    validate(data, "report_data", where=ctx.out / "report_data.json")
    write_json(ctx.out / "report_data.json", data)
    ctx.log(f"{len(data['gallery'])} gallery items, {len(data['curves'])} curves")
