"""One diagnosis over all gates: what kind of failure a run shows, on which evidence, and one proposal to run next.

A remedy belongs to one check, and the remedies of two checks can contradict each other: for a run that overfits, one
gate proposes to train longer and another to lower the learning rate. The rules here look at the whole run. Their order
is the order in which a cause explains the others: too few items and a codec that loses the subject before any training
setting, divergence and overfitting before too little training.

The thresholds are choices of this project, made on its own corpora and stated where they are used; they decide nothing
but which advice is printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpt.store.tasks import EMIT_TASKS, MODALITIES, MODALITY_OF, READ_TASKS

WORDS = {"audio": "sounds", "image": "pictures"}
RISE = 0.05  # nats above its lowest validation loss at which a task counts as overfitting
GAP = 0.5  # nats between test and train loss at which it does, the warning bound of gate T1
FALLING = 0.02  # share by which the last save must be below the one before for "still learning"
MOST_TEST = 0.3  # share of the records that may be test items without starving the training


@dataclass(frozen=True)
class Diagnosis:
    """One kind of failure.

    Args:
        kind: too_few_items, codec, diverged, overfitting, text_forgotten, reading, underfitting, unbalanced, collapse.
        says: what it is, in one sentence.
        evidence: the measurements behind it, one line each.
        changes: profile key -> proposed value; empty where no setting can help.
        conflicts: what the proposal may cost, one line each.
        needs: what only the user can supply, e.g. more records; "" where nothing is missing.
    """

    kind: str
    says: str
    evidence: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    needs: str = ""

    def to_json(self) -> dict[str, Any]:
        """As commands.schema.json describes it."""
        return {
            "kind": self.kind,
            "says": self.says,
            "evidence": list(self.evidence),
            "changes": dict(self.changes),
            "conflicts": list(self.conflicts),
            "needs": self.needs,
        }


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Args:
        profile: the resolved profile.
        checks: every check of every verdict, with its "gate".
        metrics: (gate, metric, slice) -> value, of all evidence that is there.
        validation: task -> its validation loss at each saved step, in order: [(step, nats per token)].
        records: modality -> records in all splits; empty where the split is not built.
    """

    profile: Mapping[str, Any]
    checks: Sequence[Mapping[str, Any]]
    metrics: Mapping[tuple[str, str, str], float]
    validation: Mapping[str, Sequence[tuple[int, float]]]
    records: Mapping[str, int]

    def failed(self, *gates: str, severities: Sequence[str] = ("block",)) -> list[Mapping[str, Any]]:
        """Checks of these gates that failed, with one of the severities."""
        return [
            one
            for one in self.checks
            if one["gate"] in gates and one["status"] in ("fail", "warn") and one["severity"] in severities
        ]

    def metric(self, gate: str, name: str, part: str = "") -> float:
        """A measured value; NaN where it was not measured."""
        return self.metrics.get((gate, name, part), math.nan)


def diagnose(facts: Facts) -> list[Diagnosis]:
    """Everything that the rules find, the first cause first. Empty for a run whose gates all pass."""
    return [found for rule in RULES for found in rule(facts)]


def proposal(found: Sequence[Diagnosis]) -> dict[str, Any]:
    """One set of changes: those of the first diagnosis that has any, and of later ones that do not touch the same keys.

    An earlier cause goes first: what a later diagnosis would change in the other direction is left out.
    """
    changes: dict[str, Any] = {}
    for one in found:
        changes |= {key: value for key, value in one.changes.items() if key not in changes}
    if any(one.kind == "overfitting" for one in found):  # longer training is the opposite of its proposal
        steps = next(one.changes["train.steps"] for one in found if one.kind == "overfitting")
        changes["train.steps"] = steps
    return changes


def _too_few_items(facts: Facts) -> Iterator[Diagnosis]:
    """Checks that cannot decide because n is too small, for each modality."""
    short: dict[str, list[Mapping[str, Any]]] = {}
    for check in facts.checks:
        n, least = check.get("n"), check.get("min_n") or 0
        if check["status"] == "cannot_decide" and n is not None and n < least and check["severity"] == "block":
            short.setdefault(_modality(check["slice"]), []).append(check)
    for modality, checks in short.items():
        if modality not in WORDS or not facts.records.get(modality):
            continue
        worst = max(checks, key=lambda one: one["min_n"] / max(one["n"], 1))
        total, share = facts.records[modality], worst["n"] / facts.records[modality]
        fraction = min(MOST_TEST, worst["min_n"] / total)
        enough = math.ceil(worst["min_n"] / MOST_TEST)
        evidence = (
            f"{worst['gate']}.{worst['id']}: n {worst['n']} of {worst['min_n']} test items",
            f"{total} {WORDS[modality]}",
        )
        can = total >= enough
        yield Diagnosis(
            "too_few_items",
            f"there are too few test {WORDS[modality]} for a decision",
            evidence,
            {"split.test": round(fraction + 0.005, 3)} if can else {},
            (f"training gets fewer {WORDS[modality]} ({share:.0%} to {fraction:.0%} are test items)",) if can else (),
            "" if can else f"{enough - total} more {WORDS[modality]}: {worst['min_n']} of {enough} are {MOST_TEST:.0%}",
        )


def _codec(facts: Facts) -> Iterator[Diagnosis]:
    """A codec that loses what the captions speak about: no training can bring it back."""
    failed = [one for one in facts.failed("S3") if one["id"] in ("reconstruction", "decode")]
    failed += [one for one in facts.checks if one["gate"] == "Q1" and one["id"] == "oracle" and one["status"] != "pass"]
    for modality in MODALITIES:
        mine = [one for one in failed if one["slice"].startswith(modality)]
        codec = facts.profile["codecs"].get(modality)
        if not mine or codec is None:
            continue
        size = codec.get("codebook_size")
        fitted = codec["name"] in ("melrvq", "patchvq")
        yield Diagnosis(
            "codec",
            f"codec {codec['name']} loses what the {WORDS[modality]} show",
            tuple(_line(one) for one in mine),
            {f"codecs.{modality}.codebook_size": 2 * size} if fitted and size else {},
            ("a larger codebook has more rows to learn; every stage from codecs on runs again",)
            if fitted and size
            else (),
            "" if fitted else f"another codec or a higher bitrate for codecs.{modality}",
        )


def _diverged(facts: Facts) -> Iterator[Diagnosis]:
    failed = facts.failed("B2")
    if failed:
        train = facts.profile["train"]
        changes = {f"train.lr.{name}": rate / 2 for name, rate in train["lr"].items()}
        changes["train.warmup_steps"] = 2 * max(1, train["warmup_steps"])
        yield Diagnosis(
            "diverged",
            "the training became unstable",
            tuple(map(_line, failed)),
            changes,
            ("half the learning rate learns more slowly: train.steps may have to grow",),
        )


def _overfitting(facts: Facts) -> Iterator[Diagnosis]:
    """Validation loss rises, or test is far above train, while the training loss falls."""
    evidence, best = [], []
    for task, curve in facts.validation.items():
        if len(curve) < 2:
            continue
        step, lowest = min(curve, key=lambda point: point[1])
        if curve[-1][1] > lowest + RISE:
            evidence.append(f"{task}: validation loss {lowest:.2f} at step {step}, {curve[-1][1]:.2f} at the end")
            best.append(step)
    for task in (*READ_TASKS, *EMIT_TASKS):
        gap = facts.metric("T1", "train_test_gap_nats", task)
        if gap > GAP:
            evidence.append(f"{task}: test loss {gap:.2f} nats above train loss (T1)")
    if not evidence or not facts.failed("B1", "B3", "C2", "C3", "R1", "Q1"):
        return
    train = facts.profile["train"]
    earlier = [step for step in best if 0 < step < train["steps"]]
    steps = max(earlier) if earlier else max(1, train["steps"] // 2)
    yield Diagnosis(
        "overfitting",
        "the run learns its training items by heart",
        tuple(evidence),
        {
            "train.steps": steps,
            "train.lr.lora": train["lr"]["lora"] / 2,
            "lora.r": max(4, facts.profile["lora"]["r"] // 2),
            "lora.alpha": max(4, facts.profile["lora"]["alpha"] / 2),
        },
        (
            "B3 and C2 need the prompts to be learned: fewer and gentler steps may leave them short",
            "remedies of single gates that ask for more steps make it worse",
        ),
        "more records; no setting replaces them",
    )


def _text_forgotten(facts: Facts) -> Iterator[Diagnosis]:
    failed = [one for one in facts.failed("C3") if one["id"] == "nll"]
    if failed:
        replay = facts.profile["mixture"]["text_replay"]
        yield Diagnosis(
            "text_forgotten",
            "the model became worse at text",
            tuple(map(_line, failed)),
            {
                "mixture.text_replay": round(min(0.5, max(0.15, 1.5 * replay)), 3),
                "train.lr.lora": facts.profile["train"]["lr"]["lora"] / 2,
            },
            ("more text and a lower rate leave fewer updates to the four tasks: B1 and B3 may fall short",),
        )


def _reading(facts: Facts) -> Iterator[Diagnosis]:
    failed = [one for one in facts.failed("W1", "R1", "Q1") if _task(one["slice"]) in READ_TASKS or one["gate"] == "W1"]
    if failed:
        weights, warmup = facts.profile["mixture"]["weights"], facts.profile["warmup"]
        changes: dict[str, Any] = {
            f"mixture.weights.{task}": round(1.5 * weights[task], 4) for task in READ_TASKS if weights.get(task)
        }
        if any(one["gate"] == "W1" for one in failed):
            changes["warmup.steps"] = 2 * max(1, warmup["steps"])
        yield Diagnosis(
            "reading",
            "the model does not read what it is shown",
            tuple(map(_line, failed)),
            changes,
            ("the emit tasks get a smaller share of each step: B3 and Q1 may fall short",),
        )


def _underfitting(facts: Facts) -> Iterator[Diagnosis]:
    """Emission is short of its bounds and the validation loss still falls at the end."""
    failed = [one for one in facts.failed("B1", "B3", "C2", "Q1") if _task(one["slice"]) not in READ_TASKS]
    falling = [
        f"{task}: validation loss still falls, {curve[-2][1]:.3f} to {curve[-1][1]:.3f}"
        for task, curve in facts.validation.items()
        if task in EMIT_TASKS and len(curve) > 1 and curve[-1][1] < (1 - FALLING) * curve[-2][1]
    ]
    if failed and falling:
        yield Diagnosis(
            "underfitting",
            "the training ended too early",
            (*map(_line, failed), *falling),
            {"train.steps": 2 * facts.profile["train"]["steps"]},
            ("longer training moves the text model further (C3) and learns more items by heart (T1)",),
        )


def _unbalanced(facts: Facts) -> Iterator[Diagnosis]:
    """One emit task passes and the other one is short."""
    short = {task: [one for one in facts.failed("B1", "B3", "C2") if one["slice"] == task] for task in EMIT_TASKS}
    behind = [task for task in EMIT_TASKS if short[task]]
    if len(behind) == 1 and all(facts.profile["mixture"]["weights"].get(task) for task in EMIT_TASKS):
        task = behind[0]
        weights = facts.profile["train"]["loss"].get("task_weights", {})
        yield Diagnosis(
            "unbalanced",
            f"{task} is behind the other tasks",
            tuple(map(_line, short[task])),
            {
                f"mixture.weights.{task}": round(1.5 * facts.profile["mixture"]["weights"][task], 4),
                f"train.loss.task_weights.{task}": 1.5 * weights.get(task, 1.0),
            },
            ("the other tasks get a smaller share of each step",),
        )


def _collapse(facts: Facts) -> Iterator[Diagnosis]:
    failed = [one for one in facts.failed("B4") if one["id"] in ("silent", "constant", "clipped")]
    failed += [
        one
        for one in facts.failed("Q2", severities=("block", "warn"))
        if one["id"] in ("duplicates", "looped", "usage")
    ]
    if any(one["severity"] == "block" for one in failed):
        rates = facts.profile["train"]["lr"]
        yield Diagnosis(
            "collapse",
            "outputs are constant, silent, looped or alike",
            tuple(map(_line, failed)),
            {"train.lr.embed": rates["embed"] / 2, "train.lr.head": rates["head"] / 2},
            ("new rows learn more slowly",),
        )


RULES: tuple[Callable[[Facts], Iterator[Diagnosis]], ...] = (
    _too_few_items,
    _codec,
    _diverged,
    _overfitting,
    _text_forgotten,
    _reading,
    _underfitting,
    _unbalanced,
    _collapse,
)


def _task(part: str) -> str:
    return part.split(".")[0]


def _modality(part: str) -> str:
    return MODALITY_OF.get(_task(part), _task(part))


def _line(check: Mapping[str, Any]) -> str:
    """B3.win_empty [t2a]: 0.61, bound 0.8."""
    part = f" [{check['slice']}]" if check["slice"] else ""
    value = "not measured" if check["value"] is None else f"{check['value']:.4g}"
    bound = "" if check["bound"] is None else f", bound {check['bound']:.4g}"
    return f"{check['gate']}.{check['id']}{part}: {value}{bound}"
