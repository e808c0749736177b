"""Small golden sets at every saved step, so that a long run can be watched.

What a checkpoint's small evaluation gives is a function of the checkpoint, the evaluation settings and the
code, and is kept in a folder under the digest of the three: the hook fills it while training runs, stage
`trend` collects it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import mmpt
from mmpt.evaluate.ablation import ablate, report
from mmpt.evaluate.checkpoint import EvalContext, digest
from mmpt.evaluate.golden import Decoder, DecodingSettings, generate_golden, output_rows, summary
from mmpt.evaluate.sets import Codecs, Record, ablation_sets, golden_sets
from mmpt.store.atomic import publish_folder
from mmpt.store.canonical import digest_json, read_json, write_json
from mmpt.store.jsonl import write_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import EMIT_TASKS

RESAMPLES = 200
CODE = ("tokens", "ops", "codecs", "shards", "model", "generate", "evaluate")


@dataclass(frozen=True)
class TrendEvaluator:
    """What a small evaluation needs."""

    workshop: EvalContext
    decoder: Decoder
    golden: dict[str, list[Record]]
    ablation: dict[str, list[Record]]
    setting: DecodingSettings
    cache: Path

    @staticmethod
    def of(ctx: StageContext) -> TrendEvaluator:
        """From the context of stage trend, or of train with trend's inputs and profile slice."""
        workshop = EvalContext.of(ctx)
        codecs = Codecs.open(ctx.inputs["codecs"], ctx.device)
        limit = ctx.profile["evaluate.trend.ablation"]
        return TrendEvaluator(
            workshop,
            Decoder(workshop.space, codecs, workshop.tokenizer),
            golden_sets(ctx.inputs["golden"], ctx.profile["evaluate.trend.golden_per_task"]),
            {
                task: records
                for task, records in ablation_sets(ctx.inputs["golden"], limit).items()
                if task in EMIT_TASKS
            },
            setting_of(ctx),
            ctx.external.get("evaluations", ctx.work / "evaluations"),
        )

    def key(self, checkpoint: Path) -> str:
        return digest_json(
            {
                "checkpoint": digest(checkpoint),
                "setting": asdict(self.setting),
                "code": code_digest(),
                "golden": digest_json(self.golden),
                "ablation": digest_json(self.ablation),
                # A worker's own GPU is cuda:<n>; the stage that collects says cuda.
                "where": [
                    torch.device(self.workshop.device).type,
                    self.workshop.dtype,
                    torch.get_num_threads(),
                ],
            }
        )


def setting_of(ctx: StageContext) -> DecodingSettings:
    chosen = {
        key: ctx.profile[f"generate.{key}"] for key in ("top_k", "top_p", "guidance", "batch_size", "max_text_tokens")
    }
    return DecodingSettings(ctx.seed, **chosen)


def code_digest() -> str:
    """SHA-256 of the source that an evaluation runs through."""
    root = Path(mmpt.__file__).parent
    state = hashlib.sha256()
    for path in sorted(path for part in CODE for path in (root / part).rglob("*.py")):
        state.update(path.read_bytes())
    return state.hexdigest()


def at_save(ctx: StageContext) -> Callable[[int, Path], None] | None:
    """The train stage's hook: evaluates each checkpoint as saved. None for a context without golden sets."""
    if "golden" not in ctx.inputs:
        return None
    watch = TrendEvaluator.of(ctx)

    def hook(step: int, checkpoint: Path) -> None:
        evaluated(watch, step, checkpoint)

    return hook


def evaluated(watch: TrendEvaluator, step: int, checkpoint: Path) -> Path:
    """The folder of the checkpoint's small evaluation, trend.json and qual/; computed if not cached."""
    folder = watch.cache / watch.key(checkpoint)
    if not (folder / "trend.json").is_file():
        staging = watch.cache / f".{folder.name}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write_json(staging / "trend.json", _evaluate(watch, step, checkpoint, staging / "qual" / f"step_{step}"))
        publish_folder(staging, folder)
    return folder


def _evaluate(watch: TrendEvaluator, step: int, checkpoint: Path, qual: Path) -> dict[str, Any]:
    result: dict[str, Any] = {"step": step, "golden": [], "ablation": {}}
    qual.mkdir(parents=True)
    with watch.workshop.opened(checkpoint) as model:
        made = generate_golden(
            model, watch.decoder.space, watch.golden, watch.setting, decodings=("greedy",), free=False
        )
        for (task, decoding), outputs in made.items():
            rows = output_rows(watch.decoder, watch.golden[task], outputs.golden, watch.setting, step, decoding, qual)
            write_jsonl(qual / f"step_{step}_golden_{task}.jsonl", rows)
            result["golden"].append(summary(rows, None))
        for task, records in watch.ablation.items():
            result["ablation"][task] = report(
                ablate(model, watch.workshop.space, records), RESAMPLES, watch.setting.seed
            )
    return result


def collect(folder: Path, out: Path) -> dict[str, Any]:
    """Copies an evaluation's files into `out` and returns its numbers."""
    shutil.copytree(folder / "qual", out / "qual", dirs_exist_ok=True)
    return read_json(folder / "trend.json")
