"""The task graph, generated from the table in mmpt/build/stage_table.py; a test holds this drawing against it.

`a -> b`: b reads what a published. `a -S1-> b`: b runs only while gate S1, decided on the evidence that a
measured, is GO. What reaches b through others is not drawn again.

    corpus -> manifest -S1-> split -S2-> codecs -> token_space -> shards -> shard_audit
    shard_audit -S3-> base, examples
    extension -> kernels -K1-> base
    token_space -> base
    shards -> examples -> golden
    golden -> warmup_check, preflight
    codecs, base, examples -> warmup
    warmup -> warmup_check -W1-> train
    warmup -> preflight -A1 A2 A3 A4-> train
    warmup -> resume_check
    train -> trend, generate, text_regression
    generate -> ablation, read_regression, staged_export, scores
    trend, ablation, text_regression, read_regression, staged_export, resume_check, scores -> render

    train -B1 B2-> release
    generate -B4 C1 E1-> release
    ablation -B3 C2 L1-> release
    text_regression -C3-> release
    read_regression -R1-> release
    staged_export -X1-> release
    resume_check -C4-> release
    scores -Q1 Q2 T1-> release

Each gate is a task `gate:<ID>` too, decided at every run. The decision and the report follow every run, also
after a NO-GO.
"""

from pathlib import Path

from doit import get_var

from mmpt.build.project import Project
from mmpt.build.stage_table import STAGES
from mmpt.build.tasks import DEFAULT_PROFILE, gate_tasks, open_project, stage_tasks


def project(profile: str) -> Project:
    """What the commands and the tasks below work on."""
    return open_project(profile, STAGES, Path(__file__).resolve().parent)


def task_stage():
    """One task a stage: it runs if its receipt says that it is stale."""
    yield from stage_tasks(project(get_var("profile", DEFAULT_PROFILE)))


def task_gate():
    """One task a gate: decided at every run, on evidence and policy."""
    yield from gate_tasks(project(get_var("profile", DEFAULT_PROFILE)))
