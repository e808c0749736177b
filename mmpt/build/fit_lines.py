"""The report of `doit fit` as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Report = Mapping[str, Any]


def fit_lines(report: Report) -> Iterator[str]:
    """Lengths and drops by task, a step, memory and time, what would fit better, what was measured."""
    model, device = report["model"], report["device"]
    size = f"{model['parameters']:,} parameters"
    yield f"model    {model['name']}: {size} ({model['source']}), {model['dtype']}"
    yield (
        f"         trained: {model['trained']['rows']:,} in {model['new_ids']:,} new rows, "
        f"{model['trained']['lora']:,} in LoRA; {model['vocabulary']:,} ids"
    )
    yield f"device   {device['name']}, {_gib(device['memory'])}"
    if (ranks := report["ranks"])["world"] > 1:
        base = "the base's layers split over them" if ranks["split"] else "the base whole on each"
        yield f"ranks    {ranks['world']} by {ranks['kind']}, {base}; memory is that of one"
    if (most := model["positions"]) and report["now"] and report["now"]["max_seq_len"] > most:
        yield f"length   max_seq_len {report['now']['max_seq_len']} is MORE THAN THE BASE'S {most} positions: lower it"
    if report["given"]:
        yield f"given    {_given(report['given'])}"
    yield from (f"{'basis' if not at else '':<8} {line}" for at, line in enumerate(report["basis"]))
    yield ""
    yield ("task  records  max_seq_len that keeps all   99 %   90 %   dropped now  prompts shortened  mean tokens")
    for task, one in report["tasks"].items():
        at = one["whole"]
        yield (
            f"{task:<5} {one['records']:>7}  {at['all']:>26} {at['p99']:>6} {at['p90']:>6}  "
            f"{one['dropped']:>11.2%}  {one['shortened']:>17}  {one['mean']:>11.1f}"
        )
    yield ""
    now = report["now"]
    if now is None:
        yield "now      no task keeps a record: nothing could be trained"
    else:
        yield from _choice("now", now, device)
        lost = [task for task, one in report["tasks"].items() if not one["kept"]]
        if lost:
            yield f"         {', '.join(lost)} would not be trained at all: every record is too long"
        step = now["step"]
        passes = ", ".join(f"{task} {n:.1f}" for task, n in step["passes"].items())
        examples = ", ".join(f"{kind} {n:.1f}" for kind, n in step["examples"].items())
        yield (
            f"         a step: {examples} examples; {step['tokens']:.0f} tokens, "
            f"{step['supervised']:.0f} supervised, {step['rows']:.1f} rows, {step['padding']:.0%} padding"
        )
        yield f"         passes over the records in the whole run: {passes}"
        yield f"         memory: {_memory(now['memory'])}"
        yield f"         time: {now['time_is']}"
    yield f"longest row that fits, one at a time: {report['longest_row']} tokens"
    yield ""
    yield from _proposals(report, device)
    if report["stages"]:
        yield from _stages(report["stages"], report["uncounted"], device)
    if report["measured"]:
        yield from _measured(report["measured"])


def _given(given: Mapping[str, Any]) -> str:
    names = {"max_seq_len": "max_seq_len {}", "seconds": "clips of {:g} s", "n_codebooks": "{} codebooks"}
    fixed = [text.format(given[key]) for key, text in names.items() if given[key] is not None]
    free = [text.split(" ")[0 if key == "max_seq_len" else -1] for key, text in names.items() if given[key] is None]
    return ", ".join(fixed) + (" kept; the rest is proposed" if free else " kept")


def _stages(stages: list[Mapping[str, Any]], uncounted: list[str], device: Report) -> Iterator[str]:
    """What each stage needs of one GPU."""
    yield ""
    yield "stage                                            GPU memory  of it the base  what needs the most"
    for one in stages:
        fits = "" if one["fits"] else "  DOES NOT FIT"
        names = ", ".join(one["stages"])
        yield f"{names:<48} {_gib(one['total']):>10}  {_gib(one['weights']):>14}  {one['doing']}{fits}"
    worst = max(one["total"] for one in stages)
    verdict = "every stage fits" if all(one["fits"] for one in stages) else "NOT EVERY STAGE FITS"
    yield f"{verdict} into {_gib(device['memory'])}: {_gib(worst)} at most; counted with tensors without storage"
    if uncounted:
        yield f"not counted: {', '.join(uncounted)}"


def _choice(name: str, one: Report, device: Report) -> Iterator[str]:
    sound = (
        "" if one["clip_seconds"] is None else f"clips of {one['clip_seconds']:g} s x {one['n_codebooks']} codebooks, "
    )
    rows = f"{one['rows_at_once']} row{'s' * (one['rows_at_once'] > 1)} of {one['row_len']} at once"
    if one["activation_checkpointing"]:
        rows += f", activation checkpointing in {one['activation_checkpointing']} layers"
    if one["shard_base"]:
        rows += ", the base split"
    fits = "" if one["fits"] else f", DOES NOT FIT into {_gib(device['memory'])}"
    yield f"{name:<8} {sound}max_seq_len {one['max_seq_len']}, {rows}: {_gib(one['memory']['total'])}{fits}"
    yield (
        f"         {one['seconds_per_step']:.3g} s a step, {one['tokens_per_second']:.0f} tokens/s, "
        f"{_duration(one['hours'])} in all"
    )


def _proposals(report: Report, device: Report) -> Iterator[str]:
    usable = [one for one in report["proposals"] if one["fits"]]
    if not usable:
        yield "nothing fits: take a smaller base, or a device with more memory"
        return
    for at, one in enumerate(usable):
        dropped = ", ".join(f"{task} {share:.2%}" for task, share in one["dropped"].items())
        yield from _choice("propose" if at == 0 else "or", one, device)
        yield f"         drops {dropped}{_sound(one)}"
    for one in report["instead"]:
        dropped = ", ".join(f"{task} {share:.2%}" for task, share in one["dropped"].items())
        yield from _choice("instead", one, device)
        yield f"         drops {dropped}{_sound(one)}"
    best = usable[0]
    yield ""
    yield "# the first of them, for the profile"
    if best["clip_seconds"] is not None:
        sound = f"clip_seconds: {best['clip_seconds']:g}, n_codebooks: {best['n_codebooks']}"
        yield f"codecs: {{audio: {{{sound}}}}}"
    yield f"examples: {{max_seq_len: {best['max_seq_len']}}}"
    checkpointing = (
        f", activation_checkpointing: {best['activation_checkpointing']}" if best["activation_checkpointing"] else ""
    )
    yield f"train: {{row_len: {best['row_len']}, micro_rows: {best['micro_rows']}{checkpointing}}}"
    if best["shard_base"] and not report["ranks"]["split"]:
        yield f"launcher: {{kind: {report['ranks']['kind']}, shard_base: true}}"


def _sound(one: Report) -> str:
    """What a shorter clip costs."""
    if not one["cut"]:
        return ""
    return f"; cuts {one['cut']:.0%} of the sounds, {one['lost']:.1%} of their seconds"


def _measured(found: Report) -> Iterator[str]:
    yield ""
    yield (
        f"measured {found['steps']} steps on random ids: {_gib(found['memory'])} "
        f"and {_gib(found['libraries'])} of libraries, {found['seconds_per_step']:.3g} s a step, "
        f"{found['tokens_per_second']:.0f} tokens/s"
    )
    yield (
        f"         the estimates were off by {found['memory_error']:+.0%} (memory) "
        f"and {found['time_error']:+.0%} (time)"
    )


def _memory(parts: Mapping[str, int]) -> str:
    names = {
        "weights": "base",
        "trained": "trained rows and LoRA with gradients and moments",
        "kept": "activations",
        "working": "the head in passing",
        "context": "the device's own",
    }
    told = ", ".join(f"{_gib(parts[key])} {name}" for key, name in names.items() if parts[key])
    if parts["look"] > parts["kept"] + parts["working"]:
        told += f"; most at a save, which looks at the checkpoint with a model of {_gib(parts['look'])}"
    return told


def _gib(size: float) -> str:
    gib = size / (1 << 30)
    return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.0f} MiB"


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
