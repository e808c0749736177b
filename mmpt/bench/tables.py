"""The benchmark tables of the READMEs, drawn from results/*.json: `python -m mmpt.bench.tables` writes them there.

A table stands between `<!-- bench NAME -->` and `<!-- end -->`; whatever is between is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpt.bench.ops_peers import TEXT
from mmpt.bench.record import RESULTS
from mmpt.store.atomic import atomic_write
from mmpt.store.canonical import read_json
from mmpt.store.tasks import EMIT_TASKS

PACKAGES = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def readmes() -> list[Path]:
    """The READMEs of the packages that hold a benchmark table."""
    return [path for path in sorted(PACKAGES.glob("**/README.md")) if BLOCK.search(path.read_text())]


def newest(prefix: str) -> dict[str, Any]:
    """The result file of that prefix with the latest date. Raises FileNotFoundError where there is none."""
    found = [read_json(path) for path in sorted(RESULTS.glob(f"{prefix}-*.json"))]
    if not found:
        raise FileNotFoundError(f"no {prefix}-*.json in {RESULTS}")
    return max(found, key=lambda one: one["date"])


def _head(result: dict[str, Any]) -> str:
    return f"{result['chip']}, {result['threads']} threads, torch {result['torch']}, {result['date']}."


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} us"


def _cells(one: dict[str, Any], ours: dict[str, Any]) -> str:
    if "absent" in one:
        return "not installed"
    ratio = "" if one is ours else f" ({one['median'] / ours['median']:.2f}x)"
    return f"{_seconds(one['median'])}{ratio}"


def _label(case: dict[str, Any]) -> str:
    dtype = {"float32": "fp32", "bfloat16": "bf16"}[case["dtype"]]
    if case["kind"] == "loss":
        trains = {"new": "new rows train", "all": "all rows train", "hidden": "head frozen"}[case["trains"]]
        return f"{dtype}, {trains}"
    return f"{dtype}, batch {case['n']}, {case['width']} ids"


def _by_case(cases: list[dict[str, Any]], memory: bool) -> list[str]:
    names = [
        name for name in cases[0]["peers"] if any("absent" not in c["peers"].get(name, {"absent": 1}) for c in cases)
    ]
    names.sort(key=lambda name: cases[0]["peers"][name].get("median", 1e9))
    head = ["", *map(_label, cases), *(["extra memory, first case"] if memory else [])]
    lines = [_row(head), _row(["---"] * len(head))]
    for name in names:
        cells = [_cells(case["peers"][name], case["peers"]["mmpt"]) for case in cases]
        extra = [f"{cases[0]['peers'][name]['extra_bytes'] / 2**20:.0f} MiB"] if memory else []
        lines.append(_row([f"**{name}**" if name == "mmpt" else name, *cells, *extra]))
    floors = [_seconds(case["floor"]) for case in cases]
    lines.append(_row(["floor", *floors, *([""] if memory else [])]))
    return lines


def loss() -> str:
    """Median times of the loss with its gradients, and each peer's time over ours."""
    result = newest("ops-loss")
    case = result["cases"][0]
    shape = f" {case['n']} rows, {case['supervised']} supervised, H = {case['h']}, 164,021 ids; loss and gradients."
    return "\n".join([_head(result) + shape, "", *_by_case(result["cases"], memory=True)])


def draw() -> str:
    """Median times of one decode step, hidden state to id."""
    result = newest("ops-draw")
    shape = f" Hidden state to id, H = {result['cases'][0]['h']}, temperature 1."
    lines = [_head(result) + shape]
    for captions in (False, True):
        cases = [one for one in result["cases"] if (one["width"] == TEXT) == captions]
        lines += ["", *_by_case(cases, memory=False)] if cases else []
    return "\n".join(lines)


def support() -> str:
    """Held-out losses of both supports over training, means over seeds."""
    result = newest("support")
    columns = [(task, kind) for task in EMIT_TASKS for kind in ("full", "range")]
    head = f"{result['chip']}, {result['threads']} thread, torch {result['torch']}, {result['date']}; "
    head += f"profile {result['profile']}, {result['steps']} steps, mean of {len(result['seeds'])} seeds."
    lines = [_row(["step", *(f"{task}, {kind}" for task, kind in columns)]), _row(["---"] * (len(columns) + 1))]
    for step in sorted(map(int, result["runs"][0]["curve"])):
        cells = []
        for task, kind in columns:
            values = [one["curve"][str(step)][task]["inside"] for one in result["runs"] if one["support"] == kind]
            cells.append(f"{sum(values) / len(values):.3f}")
        lines.append(_row([str(step), *cells]))
    return "\n".join([head, "", *lines])


def build() -> str:
    """Medians of a run with nothing to do, by graph and tool."""
    result = newest("build")
    graphs = result["graphs"]
    head = [f"{len(one['stages'])} stages, {sum(stage['files'] for stage in one['stages']):,} files" for one in graphs]
    lines = [f"{result['chip']}, {result['cores']} cores, {result['date']}.", "", _row(["nothing to do", *head])]
    lines.append(_row(["---"] * (len(head) + 1)))
    for name, version in result["versions"].items():
        if not version.startswith("absent"):
            cells = [_cells(one["times"][name]["run"], one["times"]["mmpt"]["run"]) for one in graphs]
            lines.append(_row([f"**{name}**" if name == "mmpt" else f"{name} {version}", *cells]))
    return "\n".join(lines)


def noticed() -> str:
    """What was changed in the first graph, and what each tool made of it."""
    graph = newest("build")["graphs"][0]
    found, total = graph["staleness"], len(graph["stages"])
    lines = [_row([f"stages run again of {total}", *found]), _row(["---"] * (len(found) + 1))]
    for what in next(iter(found.values())):
        lines.append(_row([what, *(_noticed(one[what]) for one in found.values())]))
    return "\n".join(lines)


def _noticed(one: dict[str, Any]) -> str:
    return f"{len(one['ran'])}{'' if one.get('healed', True) else ', still spoilt'}"


def scale() -> str:
    """Processor seconds (other work may run beside) and peak memory by number of records; beside validation, what
    jsonschema alone would take. Each curve is of the newest result that has it.
    """
    results = sorted((read_json(path) for path in RESULTS.glob("scale-*.json")), key=lambda one: one["date"])
    of = {one["curve"]: result for result in results for one in result["points"]}
    by = {
        (one["curve"], one["records"]): one
        for result in results
        for one in result["points"]
        if of[one["curve"]] is result
    }
    sizes = sorted({n for _, n in by})
    first = next(iter(of.values()))
    when = first["date"]
    lines = [
        f"{first['chip']}, one core, {when}; processor seconds, and peak memory at the two largest.",
        "",
    ]
    lines.append(_row(["records", *(f"{n:,}" for n in sizes), *(f"MiB at {n:,}" for n in sizes[-2:])]))
    lines.append(_row(["---"] * (len(sizes) + 3)))
    for curve, result in of.items():
        points, says = {n: by[curve, n] for n in sizes if (curve, n) in by}, result["says"][curve]
        says = says if result["date"] == when else f"{says} ({result['date']})"
        last = points[max(points)]
        alone = last.get("jsonschema_us_a_record", 0) * last["records"] / 1e6
        label = f"{says} (jsonschema: {_seconds(alone)})" if alone else says
        cells = [_seconds(points[n]["processor_seconds"]) if n in points else "" for n in sizes]
        cells += [_memory(points[n]) if n in points else "" for n in sizes[-2:]]
        lines.append(_row([label, *cells]))
    return "\n".join(lines)


def _memory(one: dict[str, Any]) -> str:
    """Where files are mapped, without the pages that the system takes back when it needs them."""
    return f"{one.get('anonymous_mib', one['peak_mib']):.0f}"


def generate() -> str:
    """Median seconds per sequence of decoding, by task and dtype, and each peer's over ours."""
    result = newest("generate-cpu")
    setting, cases = result["setting"], result["cases"]
    shape = f" Qwen3 of {setting['layers']} layers, H = {setting['hidden']}, 164,021 ids; seconds per sequence, greedy."
    dtypes = {"float32": "fp32", "bfloat16": "bf16"}
    head = [
        f"{one['task']}, {dtypes[one['dtype']]}: {one['items']} of {_lengths(one)} ids, batch {one['batch']}"
        for one in cases
    ]
    lines = [_head(result) + shape, "", _row(["", *head]), _row(["---"] * (len(head) + 1))]
    for name in sorted({name: None for one in cases for name in one["peers"]}, key=lambda name: _most(cases, name)):
        cells = [_cells(one["peers"][name], one["peers"]["mmpt"]) if name in one["peers"] else "" for one in cases]
        lines.append(_row([f"**{name}**" if name == "mmpt" else name, *cells]))
    return "\n".join(lines)


def _lengths(case: dict[str, Any]) -> str:
    return f"{case['shortest']}..{case['longest']}" if case["shortest"] < case["longest"] else str(case["longest"])


def _most(cases: list[dict[str, Any]], name: str) -> float:
    return max(one["peers"][name]["median"] / one["peers"]["mmpt"]["median"] for one in cases if name in one["peers"])


def train() -> str:
    """Tokens per second, what ours is to each, and the peak of memory beyond the loaded model and with it; by dtype."""
    dtypes = {"float32": "fp32", "bfloat16": "bf16"}
    results = [
        newest(f"train-tiny-{one}") for one in dtypes if one == "float32" or any(RESULTS.glob(f"train-tiny-{one}-*"))
    ]
    first, parts = results[0], ("tokens/s", "ours is", "peak MiB (x ours)", "with the model")
    head = ["", *(f"{dtypes[one['dtype']]}: {part}" for one in results for part in parts)]
    about = f" {first['items']} items per step, {first['supervised']:.0%} of their tokens supervised; transformers "
    about += f"{first['transformers']}, PEFT {first['peft']}."
    lines = [_head(first) + about, "", _row(head), _row(["---"] * len(head))]
    rows = first["contenders"]
    for name in sorted(rows, key=lambda name: -rows[name].get("tokens_per_second", 0)):
        cells = [cell for one in results for cell in _trained(one["contenders"].get(name), one["contenders"]["mmpt"])]
        lines.append(_row([f"**{name}**" if name == "mmpt" else name, *cells]))
    return "\n".join(lines)


def _trained(one: dict[str, Any] | None, ours: dict[str, Any]) -> list[str]:
    if one is None or "absent" in one:
        return ["not installed", "", "", ""]
    faster = f"{ours['tokens_per_second'] / one['tokens_per_second']:.2f}x"
    extra, whole = ([row["extra_bytes"] + more * row["loaded_bytes"] for row in (one, ours)] for more in (0, 1))
    memory = [f"{peak[0] / 2**20:,.0f} ({peak[0] / peak[1]:.1f}x)" for peak in (extra, whole)]
    return [f"{one['tokens_per_second']:,.0f}", faster, *memory]


TABLES: dict[str, Callable[[], str]] = {
    "loss": loss,
    "draw": draw,
    "generate": generate,
    "train": train,
    "support": support,
    "build": build,
    "noticed": noticed,
    "scale": scale,
}


def drawn(text: str) -> str:
    """A README's text with every table drawn again. Raises KeyError for a table that TABLES does not have."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n\n{block[3]}", text)


def main() -> None:
    """Draws the tables of every README again."""
    for path in readmes():
        atomic_write(path, drawn(path.read_text()).encode())


if __name__ == "__main__":
    main()
