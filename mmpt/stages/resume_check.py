"""Stage resume_check: N + M steps against N, save, load, M, for gate C4. Profile keys it reads: train, lora, mixture,
warmup, examples.max_seq_len, evaluate.resume.
"""

from __future__ import annotations

from mmpt.evaluate.checkpoint import digest
from mmpt.evaluate.resume import check_resume
from mmpt.store.canonical import write_json
from mmpt.store.evidence import write_evidence
from mmpt.store.stage import StageContext


def resume_check(ctx: StageContext) -> None:
    """C4: N + M steps at once against N, save, a new process, M; and checkpoints that must be refused."""
    metrics, details = check_resume(ctx)
    write_json(ctx.out / "resume_check.json", details)
    write_evidence(ctx.out, "C4", metrics, subject={"warmup": digest(ctx.inputs["warmup"] / "checkpoint")})
