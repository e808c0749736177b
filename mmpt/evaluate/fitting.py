"""`doit fit`: dropped records, memory and time of the training (mmpt.train.fit), and each stage's GPU memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpt.evaluate.stage_memory import Counting, longest
from mmpt.profile import Profile
from mmpt.shards.fitting import Given, clip_of, keeps
from mmpt.shards.lengths import audio_shape
from mmpt.store.errors import UserError
from mmpt.train.fit import USABLE, Device, Plan, as_profile, choice_of, plan_of, report_of, with_given

LONGEST_CLIP = 3600.0  # seconds
MOST_DROPPED = 0.1  # of a task: gate A3's kept_share


def fit_report(
    root: Path,
    profile: Profile,
    device: Device,
    steps_to_measure: int = 0,
    given: Given = Given(),
    on_stage: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """The report of `mmpt.train.fit.report_of`; on CUDA with `stages`, counted for what is proposed first.

    Args:
        root: artifacts/<profile>. on_stage(name): before a stage is counted, which takes seconds for each.
    """
    plan = plan_of(root, profile.data, device, given)
    report = report_of(plan, profile.name, device, steps_to_measure, given)
    if device.kind == "cuda" and report["now"] is not None:
        if given and (usable := usable_proposals(report)):
            plan = plan_of(root, as_profile(with_given(profile.data, given), usable[0]), device)
        counting = counting_of(plan)
        found = counting.stages(on_stage)
        report["stages"] = [{**one.to_json(), "fits": one.total <= USABLE * device.memory} for one in found]
        report["uncounted"] = counting.uncounted()
    return report


def given_of(
    root: Path,
    profile: Profile,
    *,
    max_seq_len: int | None = None,
    seconds: float | None = None,
    n_codebooks: int | None = None,
    frames: int | None = None,
) -> Given:
    """What a user fixed. frames: instead of seconds, of the profile's audio codec.

    Raises:
        UserError: frames and seconds, or frames without an audio codec; no clip of so many frames.
    """
    if frames is None:
        return Given(max_seq_len, seconds, n_codebooks)
    if seconds is not None:
        raise UserError("the clip is given twice", where="--frames, --clip-seconds", fix="give one of them")
    audio = audio_shape(profile.data["codecs"].get("audio"), root / "codecs" / "data" / "audio")
    if audio is None:
        raise UserError("the profile has no audio codec", where="--frames", found=frames)
    found = clip_of(audio, frames, LONGEST_CLIP)
    if not found:
        raise UserError("no clip is that short", where="--frames", found=frames, expected="a tenth of a second")
    return Given(max_seq_len, found, n_codebooks)


def chosen_profile(profile: Profile, report: dict[str, Any], given: Given) -> dict[str, Any]:
    """The profile's data with the first proposal.

    Raises:
        UserError: nothing fits; each proposal drops more of a task than gate A3 allows.
    """
    usable = usable_proposals(report)
    runs = [one for one in usable if max(one["dropped"].values()) <= MOST_DROPPED]
    if not runs:
        dropped = ", ".join(f"{task} {share:.0%}" for task, share in usable[0]["dropped"].items()) if usable else ""
        longer = report["instead"] and report["instead"][0]["max_seq_len"]
        raise UserError(
            "no choice that keeps what is given can be run",
            where="doit fit --write",
            found=f"the best one drops {dropped}" if usable else "nothing fits the device",
            expected=f"at most {MOST_DROPPED:.0%} of a task's records (gate A3)" if usable else "",
            fix=f"--max-seq-len {longer} keeps clip and codebooks" if longer else "leave clip or codebooks free",
        )
    return as_profile(with_given(profile.data, given), runs[0])


def usable_proposals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that fit the device, the best first."""
    return [one for one in report["proposals"] if one["fits"]]


def counting_of(plan: Plan) -> Counting:
    """The longest sequences that a plan keeps, with the model that runs on them."""
    choice = choice_of(plan)
    kept = {task: one for task, one in keeps(plan.corpus, plan.audio, plan.image, choice).items() if one.kept}
    payloads = plan.corpus.payloads(plan.audio, plan.image, choice.seconds)
    lengths = {
        kind: longest(plan.corpus.texts[kind], payloads[kind], choice.max_seq_len, choice.max_prompt)
        for kind in payloads
    }
    texts, tokens = ({kind: pair[at] for kind, pair in lengths.items()} for at in (0, 1))
    return Counting(plan.shape, plan.data, kept, texts, tokens)
