"""The README.md of an exported folder: what it is, how to use it, and the evidence for its release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt import __version__
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.gating import Verdict
from mmpt.gating.decision import told
from mmpt.gating.text import bound_text, check_name, compared, number, telling
from mmpt.model.export_script import CODEC_FILES, NAME, SCRIPT
from mmpt.store.canonical import digest_json, read_json
from mmpt.store.digests import sha256_file
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.numbers import Labels
from mmpt.store.tasks import MODALITIES


def card(project: Project, verdicts: Iterable[Verdict], written: Mapping[str, Any]) -> str:
    """Markdown with a Hugging Face metadata block.

    Args:
        verdicts: of all gates, as they were decided for this export.
        written: what mmpt.evaluate.exporting.export returned.
    """
    verdicts = list(verdicts)
    parts = [
        _front(written),
        _about(project, verdicts, written),
        _use(written),
        _gates(verdicts),
        _waivers(verdicts),
        _softenings(project),
        _overrides(project),
        _corpus(project),
        _digests(project, written),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(written: Mapping[str, Any]) -> str:
    name = written["base"]["name"]
    base = [f"base_model: {name}"] if "/" in name else []
    return "\n".join(
        ["---", "library_name: transformers", "pipeline_tag: any-to-any", *base, "tags: [mmpt, peft]", "---"]
    )


def _about(project: Project, verdicts: Sequence[Verdict], written: Mapping[str, Any]) -> str:
    base, parity, ranges = written["base"], written["parity"], written["space"]["ranges"]
    waived = sum(one.verdict == "GO_WAIVED" for one in verdicts)
    decision = told("GO", policy_of(project))
    decision += f", {waived} gate{'s' * (waived > 1)} waived, see below" if waived else ""
    segments = ", ".join(f"{name} {r['start']}..{r['end']}" for name, r in ranges.items())
    size = f"{base['architecture']}, {base['parameters']:,} parameters"
    return f"""# {project.profile.name}

{base["name"]} ({size}) that also reads and writes discrete audio and image tokens.
Decision at export: **{decision}**.

- Checkpoint: {written["release"]["step"]}. Merged weights in {written["dtype"]}.
- {written["space"]["vocab_size_total"]:,} ids: {segments}.
- Read back by plain transformers, {parity["positions"]} positions of golden sequences: largest difference
  of a logit {parity["difference"]:.2g} of the largest; same most probable id at {parity["same_choice"]:.2%}.
- `adapter/` is the same as a PEFT adapter (new rows and LoRA in float32), for the base model alone.
{_codecs(project)}"""


def _codecs(project: Project) -> str:
    """A line for each codec: files that are here, or what to bring."""
    lines = []
    for modality in MODALITIES:
        path = project.root / "codecs" / "data" / modality / "codec.json"
        if not path.is_file():
            continue
        about = read_json(path)
        if about["plugin"] in CODEC_FILES:
            told = "its codebooks are here"
        else:
            given = (project.profile.data.get("codecs", {}).get(modality) or {}).get("path", "")
            source = Path(given).name if Path(given).exists() else given  # a folder here, or a name on the hub
            told = f"its weights are not here; the run had them from {source or 'its package'}"
            if about["plugin"] == "encodec":
                told += ", and with their config.json and model.safetensors in this folder `sample.py` decodes 24 kHz"
        lines.append(f"- `codecs/{modality}`: {about['plugin']}, identity `{about['identity']}`; {told}.")
    return "\n".join(lines)


def _use(written: Mapping[str, Any]) -> str:
    lengths = written["lengths"]
    task, out = ("t2i", "x.png") if lengths["image_tokens"] else ("t2a", "x.wav")
    return f"""## Use

`python {NAME} {task} "a red circle" {out}`, with transformers, numpy, scipy and Pillow; mmpt is not needed. The script:

```python
{SCRIPT}```

`Grammar.prompt` takes image or audio ids for the tasks `i2t` and `a2t`, whose payload is text.
With PEFT: `base.resize_token_embeddings({written["space"]["vocab_size_total"]}, mean_resizing=False)`, then
`PeftModel.from_pretrained(base, "adapter")`. With vLLM (V1 model runner), this folder on PYTHONPATH:
`LLM(".", logits_processors=["grammar_logits:GrammarForVLLM"])`. Where the run is,
`doit sample --checkpoint THIS_FOLDER --task {task} --prompt ".." --out {out}` gives the same."""


def _gates(verdicts: Sequence[Verdict]) -> str:
    rows = ["| gate | verdict | telling check | value | bound | n |", "|---|---|---|---|---|---|"]
    for verdict in verdicts:
        body = verdict.to_json()
        told = telling(body["checks"])
        shown = (
            [verdict.reason, "", "", ""]
            if told is None or told["value"] is None
            else [
                check_name(told),
                number(told["value"] if compared(told) is None else compared(told)),
                bound_text(told),
                str(told["n"]),
            ]
        )
        warns = ", warning" if told is not None and told["status"] == "warn" else ""
        cells = [f"{verdict.gate} {verdict.title}", verdict.verdict + warns, *shown]
        rows.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "## Gates\n\n" + "\n".join(rows)


def _waivers(verdicts: Sequence[Verdict]) -> str:
    lines = [
        f"- {one.gate}.{one.check} {one.slice} at {number(one.value)}: {one.reason} ({one.owner}, until {one.expires})"
        for verdict in verdicts
        for one in verdict.waivers
    ]
    if not lines:
        return ""
    head = "## Waivers\n\nThese checks failed, and somebody answers for them on this very artifact:\n\n"
    return head + "\n".join(lines)


def _softenings(project: Project) -> str:
    lines = [
        f"- {one.what}: {one.value} instead of {one.default}, by {one.where}: {one.reason}"
        for one in policy_of(project).softenings
    ]
    head = "## Softened\n\nThis GO is weaker than the defaults ask; `doit export --strict` would have refused it:\n\n"
    return head + "\n".join(lines) if lines else ""


def _overrides(project: Project) -> str:
    lines = [
        f"- {one.gate}.{one.check}: {one.key} {one.value} instead of {one.default}: {one.reason}"
        for one in policy_of(project).overrides
    ]
    head = (
        "## Bounds that this run set for itself\n\nIts profile judges these checks otherwise than the policy does:\n\n"
    )
    return head + "\n".join(lines) if lines else ""


def _corpus(project: Project) -> str:
    rows = iter_jsonl(project.root / "split" / "data" / "split.jsonl")
    sides = Labels((row["id"], row["split"]) for row in rows)
    counts = Counter(
        (row["source"], row["modality"], row.get("license") or "not stated")
        for row in iter_jsonl(project.root / "manifest" / "data" / "manifest.jsonl")
        if sides.get(row["id"]) == "train"
    )
    table = ["| source | modality | licence | training records |", "|---|---|---|---|"]
    table += [f"| {' | '.join(key)} | {n:,} |" for key, n in sorted(counts.items())]
    return "## Training data\n\n" + "\n".join(table)


def _digests(project: Project, written: Mapping[str, Any]) -> str:
    stages = {path.parent.name: sha256_file(path) for path in sorted(project.root.glob("*/MANIFEST.sha256"))}
    named = {
        "token space": written["token_space"],
        "base model folder": written["release"]["base_manifest_sha256"],
        "profile": digest_json(dict(project.profile.data)),
        **{f"stage {name}": value for name, value in stages.items()},
    }
    rows = "\n".join(f"| {name} | `{value}` |" for name, value in named.items())
    return f"""## Digests

SHA-256. This folder's files are in `MANIFEST.sha256` (`sha256sum -c MANIFEST.sha256`). By mmpt {__version__}.

| of | sha256 |
|---|---|
{rows}"""
