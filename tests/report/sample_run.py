"""A small finished run on disk: outputs of the stages that the report reads, evidence for all gates,
receipts.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image, ImageDraw

from mmpt.gating import Policy, decide, load_policy
from mmpt.profile import load_profile
from mmpt.stages.render import render
from mmpt.store.canonical import digest_json, write_json
from mmpt.store.digests import Manifest, sha256_file
from mmpt.store.jsonl import write_jsonl
from mmpt.store.stage import SliceView, StageContext

FIXTURES = Path(__file__).resolve().parents[1] / "gating" / "fixtures"
CODEBOOKS = 4
RATE = 16000
HOSTILE = '<script>alert("x")</script> & "quotes" <img src=x onerror=alert(1)>'
COLOURS = {"red": (214, 57, 57), "blue": (54, 104, 214), "green": (46, 150, 84), "yellow": (230, 190, 50)}
INPUTS = {
    "golden": (),
    "manifest": (),
    "split": ("manifest",),
    "examples": ("split",),
    "warmup": ("examples",),
    "train": ("warmup", "examples"),
    "trend": ("train", "golden"),
    "generate": ("train", "golden"),
    "ablation": ("train", "golden"),
    "text_regression": ("train",),
    "kernels": (),
    "shard_audit": ("split",),
    "warmup_check": ("warmup",),
    "preflight": ("warmup", "examples"),
    "read_regression": ("train",),
    "staged_export": ("generate",),
    "resume_check": ("train",),
    "scores": ("generate",),
}
RENDERED = (
    "manifest",
    "split",
    "examples",
    "golden",
    "warmup",
    "train",
    "trend",
    "generate",
    "ablation",
    "text_regression",
)


def profile() -> dict[str, Any]:
    """The data of the profile that the run claims to be of: smoke's, with a softened gate."""
    softened = {"gate": "W1", "check": "gap", "severity": "warn", "reason": "this warm-up trains rows only"}
    return {**load_profile("smoke").data, "gates": [softened]}


def make_run(root: Path, *, items: int = 3, bad: tuple[str, ...] = (), stop_before: str | None = None) -> Policy:
    """Write the run, decide it, and return the policy it was decided by.

    Args:
        items: golden items per task; the first one has a hostile caption.
        bad: gates that get their bad evidence.
        stop_before: first stage, in the order of INPUTS, without a result; later ones have none either.
    """
    policy = load_policy(profile=profile())
    writers = {
        "golden": _golden,
        "manifest": _manifest,
        "split": _split,
        "examples": _examples,
        "warmup": _metrics,
        "train": _train,
        "trend": _trend,
        "generate": _generate,
        "text_regression": _texts,
    }
    names = list(INPUTS)
    for name in names[: names.index(stop_before)] if stop_before else names:
        data = root / name / "data"
        data.mkdir(parents=True)
        if name in writers:
            writers[name](data, items)
        if name == "generate":
            _ablation(data, items)
        for gate in policy.gates.values():
            if gate.stage == name:
                (data / "evidence").mkdir(exist_ok=True)
                shutil.copy(
                    FIXTURES / gate.id / ("bad.json" if gate.id in bad else "good.json"),
                    data / "evidence" / f"{gate.id}.json",
                )
        sign(root, name, INPUTS[name])
    if stop_before is None:
        run_render(root)
    decide(root, policy, profile())
    return policy


def run_render(root: Path) -> None:
    """The body of stage render on what is there."""
    inputs = {name: root / name / "data" for name in RENDERED if (root / name).is_dir()}
    out = root / "render" / "data"
    out.mkdir(parents=True)
    media = root / ".work" / "corpus"
    for place in range(3):
        _write_medium(media / f"image-{place:03d}.png", "t2i", place, 0.0)
        _write_medium(media / f"audio-{place:03d}.wav", "t2a", place, 0.0)
    render(StageContext("render", SliceView({}, ()), inputs, out, root / ".work", {"corpus": media}))
    sign(root, "render", tuple(inputs))


def sign(root: Path, stage: str, inputs: tuple[str, ...] = ()) -> None:
    """Manifest and receipt over the stage's data."""
    manifest = Manifest.of(root / stage / "data")
    (root / stage / "MANIFEST.sha256").write_text(str(manifest))
    dependencies = [
        {"name": f"artifact:{name}", "digest": {"sha256": sha256_file(root / name / "MANIFEST.sha256")}}
        for name in inputs
    ]
    dependencies.append({"name": "package:numpy", "annotations": {"value": "2.1.0"}})
    statement = {
        "subject": [{"name": "MANIFEST.sha256", "digest": {"sha256": manifest.digest}}],
        "predicate": {
            "buildDefinition": {
                "internalParameters": {
                    "device": "cpu",
                    "dtype": "float32",
                    "threads": 2,
                    "python": "3.12",
                    "seed": 1,
                },
                "resolvedDependencies": dependencies,
            },
            "fingerprint": digest_json(stage),
            "runDetails": {
                "info": {"seconds": 3.25, "peak_memory_mib": 812.5},
                "machine": {"system": "Linux", "machine": "x86_64"},
                "metadata": {"finishedOn": f"2030-01-01T00:00:{len(stage):02d}+00:00"},
            },
        },
    }
    write_json(
        root / stage / "receipt.json",
        {**statement, "digest": {"sha256": digest_json(statement)}},
        durable=False,
    )


def caption_of(task: str, place: int) -> tuple[str, dict[str, str], list[str]]:
    """Caption, attributes and mentioned attributes of an item."""
    colour = list(COLOURS)[place % len(COLOURS)]
    if task in ("t2i", "i2t"):
        text = HOSTILE if place == 0 else f"a {colour} circle at the left, on a grey ground"
        attributes = {
            "shape": "circle",
            "colour": colour,
            "size": "large",
            "place": "left",
            "background": "grey",
        }
        return text, attributes, ["shape", "colour"]
    return (HOSTILE if place == 0 else f"two rising tones, {place + 1} of them loud"), {}, []


def record(task: str, place: int) -> dict[str, Any]:
    """A golden record, as far as the gallery reads it."""
    caption, attributes, mentioned = caption_of(task, place)
    modality = "audio" if "a" in task else "image"
    return {
        "id": f"{modality}-{place:03d}",
        "task": task,
        "caption": caption,
        "source": "generated",
        "attributes": attributes or None,
        "mentioned": mentioned or None,
        "media": {"root": "corpus", "path": f"{modality}-{place:03d}.{'wav' if modality == 'audio' else 'png'}"},
        "meta": {},
    }


def _golden(data: Path, items: int) -> None:
    for task in ("t2a", "t2i", "a2t", "i2t"):
        write_jsonl(
            data / f"golden_{task}_{items}.jsonl", [record(task, place) for place in range(items)], durable=False
        )


def _manifest(data: Path, items: int) -> None:
    write_jsonl(
        data / "manifest.jsonl",
        [
            {"id": f"{modality}-{place:03d}", "modality": modality, "source": "generated"}
            for modality in ("audio", "image")
            for place in range(30)
        ],
        durable=False,
    )


def _split(data: Path, items: int) -> None:
    write_jsonl(
        data / "split.jsonl",
        [
            {"id": f"{modality}-{place:03d}", "split": ("train", "val", "test")[place % 3]}
            for modality in ("audio", "image")
            for place in range(30)
        ],
        durable=False,
    )


def _examples(data: Path, items: int) -> None:
    counts = {
        task: {"kept": 1490, "dropped": {"too_long": 10} if task == "t2a" else {}, "shortened_prompt": 0}
        for task in ("t2a", "t2i")
    }
    write_json(data / "drops.json", counts, durable=False)


def _metrics(data: Path, items: int) -> None:
    noise = np.random.default_rng(0)
    rows = []
    for step in range(0, 501, 10):
        row = {
            "step": step,
            "grad_norm": 0.6 + 0.3 * math.exp(-step / 90) + 0.05 * noise.random(),
            "lr": 2e-3 * min(1, (step + 1) / 20),
        }
        for place, name in enumerate(("loss", "loss_a2t", "loss_i2t", "loss_t2a", "loss_t2i")):
            row[name] = 1.2 + 0.3 * place + 3.5 * math.exp(-step / 120) + 0.1 * noise.random()
        row |= {f"loss_t2a_cb{book}": 2.0 + 0.4 * book + 3 * math.exp(-step / 150) for book in range(CODEBOOKS)}
        rows.append(row)
    write_jsonl(data / "metrics.jsonl", rows, durable=False)


def _train(data: Path, items: int) -> None:
    """As warm-up, and test losses that rise from the middle on."""
    _metrics(data, items)
    curve = [{"step": step, "test": {"t2i": 2.0 + abs(step - 250) / 500}} for step in range(0, 501, 50)]
    write_json(data / "checkpoints.json", {"test_curve": curve}, durable=False)


def ablation_entry(gap: float) -> dict[str, Any]:
    """One task's entry of prompt_ablation.json."""
    interval = {"mean": gap, "ci_low": gap - 0.07, "ci_high": gap + 0.07}
    return {
        "n_examples": 256,
        "gap_swapped": interval,
        "win_rate_swapped": 0.9,
        "gap_empty": {**interval, "mean": gap + 0.02},
        "win_rate_empty": 0.95,
    }


def _trend(data: Path, items: int) -> None:
    write_jsonl(
        data / "trend.jsonl",
        [
            {
                "step": step,
                "golden": [{"task": task, "decoded": 8, "total": 8} for task in ("t2a", "t2i")],
                "ablation": {task: ablation_entry(step / 1000) for task in ("t2a", "t2i")},
            }
            for step in (0, 250, 500)
        ],
        durable=False,
    )


def _ablation(data: Path, items: int) -> None:
    for step, gap in ((0, 0.01), (500, 0.61)):
        write_json(
            data / "qual" / f"step_{step}" / "prompt_ablation.json",
            {task: ablation_entry(gap) for task in ("t2a", "t2i")},
            durable=False,
        )


def _texts(data: Path, items: int) -> None:
    write_json(
        data / "text_regression.json",
        {"prompts": [{"prompt": "The capital of France is", "before": "a small town by the sea", "after": HOSTILE}]},
        durable=False,
    )


def picture(place: int, noise: float) -> Image.Image:
    """A circle, 32 x 32, with noise."""
    image = Image.new("RGB", (32, 32), (150, 152, 156))
    ImageDraw.Draw(image).ellipse((3, 7, 21, 25), fill=list(COLOURS.values())[place % len(COLOURS)])
    pixels = np.asarray(image, np.float64)
    mixed = pixels * (1 - noise) + np.random.default_rng(place).uniform(0, 255, pixels.shape) * noise
    return Image.fromarray(mixed.astype(np.uint8))


def sound(place: int, noise: float) -> np.ndarray:
    """One second with two tones, float64 [RATE]."""
    time = np.arange(RATE) / RATE
    tone = 0.6 * np.sin(2 * np.pi * (220 + 60 * place) * time) * (np.sin(2 * np.pi * 2 * time) > 0) * (1 - noise)
    return tone + noise * 0.5 * np.random.default_rng(place).uniform(-1, 1, RATE)


def _write_medium(path: Path, task: str, place: int, noise: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if task == "t2i":
        picture(place, noise).save(path)
    else:
        soundfile.write(path, sound(place, noise), RATE, subtype="PCM_16")


def _generate(data: Path, items: int) -> None:
    for step, below, noise in ((0, ".", 0.9), (500, ".", 0.05), (500, "sampled", 0.15)):
        folder = data / "qual" / f"step_{step}" / below
        for task in ("t2a", "t2i", "a2t", "i2t"):
            rows = [_output(folder, task, place, step, noise) for place in range(items)]
            write_jsonl(folder / f"step_{step}_golden_{task}.jsonl", rows, durable=False)
    for task, kind, suffix in (("t2a", "audio", "wav"), ("t2i", "image", "png")):
        for place in range(items):
            reconstruction = (
                data / "qual" / "step_500" / "reconstruction" / f"{task}_{kind}" / f"{kind}-{place:03d}.{suffix}"
            )
            _write_medium(reconstruction, task, place, 0.02)


def _output(folder: Path, task: str, place: int, step: int, noise: float) -> dict[str, Any]:
    item = record(task, place)
    row = {
        "id": item["id"],
        "task": task,
        "step": step,
        "path": None,
        "text": None,
        "decode_error": None,
        "fault": None,
    }
    if task in ("a2t", "i2t"):
        return {**row, "text": item["caption"] if step else "circle circle the the"}
    kind, suffix = ("audio", "wav") if task == "t2a" else ("image", "png")
    row["path"] = f"step_{step}_{task}_{kind}/{item['id']}.{suffix}"
    _write_medium(folder / row["path"], task, place, noise)
    return row


if __name__ == "__main__":
    import sys

    from mmpt.report import build_report, html

    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    make_run(target, items=8, bad=tuple(sys.argv[2:]))
    from mmpt.build.stage_table import STAGES

    text = json.dumps(build_report(target, STAGES))
    (target / "report").mkdir(exist_ok=True)
    (target / "report" / "index.html").write_text(html(json.loads(text), target))
