"""Gate C4's measure: equal ways differ in nothing, and every kind of difference and of mismatch is seen."""

import shutil
import weakref

import pytest

from mmpt.evaluate import resume
from mmpt.model.checkpoints import STATE
from mmpt.stages.resume_check import resume_check
from mmpt.store.canonical import read_json, write_json
from mmpt.store.evidence import read_evidence
from mmpt.store.schema import validate_file
from mmpt.store.tensors import load_tensors, read_meta, save_tensors

STEPS = 3


@pytest.fixture(scope="module")
def alive():
    """Filled by `checked`: models in memory whenever another is made, and when the new process starts."""
    return {"made": [], "new process": []}


@pytest.fixture(scope="module")
def checked(run, alive):
    models = []
    prepare, start = resume.prepare_train, resume._in_new_process

    def living():
        return sum(one() is not None for one in models)

    def prepared(ctx):
        alive["made"].append(living())
        ready = prepare(ctx)
        models.append(weakref.ref(ready.model))
        return ready

    def started(*job):
        alive["new process"].append(living())
        return start(*job)

    context = run.context("resume_check")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "prepare_train", prepared)
        patch.setattr(resume, "_in_new_process", started)
        resume_check(context)
    return context


def test_no_two_models_share_the_device(checked, alive):
    """Qwen3-8B takes 51 of an H100's 80 GiB while it trains."""
    assert alive == {"made": [0, 0], "new process": [0]}


def test_a_resumed_run_is_the_same_run(checked):
    metrics = read_evidence(checked.out / "evidence" / "C4.json")["metrics"]
    assert all(metric["value"] == 0 and metric["n"] > 0 for metric in metrics)
    assert {m["slice"] for m in metrics if m["name"] == "mismatches_not_refused"} == {
        "token_space",
        "row_shape",
        "lora_config",
    }
    validate_file(checked.out / "resume_check.json", "resume_check")


def test_both_ways_saw_the_whole_mixture(checked):
    seen = read_json(checked.work / "twice" / "seen.json")
    assert sorted(seen) == ["0", "1", "2"]
    rows = [row for row in (checked.work / "twice" / "metrics.jsonl").read_text().splitlines() if row]
    assert len(rows) == 1 and '"loss_t2a":null' not in rows[-1].replace(" ", "")


def test_the_interrupted_step_lies_inside_a_log_interval():
    assert all(before % resume.log_every(before) for before in range(1, 100))


def edited(checked, tmp_path, name, change):
    other = tmp_path / "edited"
    shutil.copytree(checked.work / "twice", other)
    path = other / "steps" / f"step_{STEPS}" / name
    tensors, meta = load_tensors(path, "torch"), read_meta(path)
    change(tensors)
    save_tensors(path, tensors, meta)
    found = resume.compare(checked.work / "once", other, STEPS)
    return {kind for kind, (names, _) in found.items() if names}


def nudge(prefix):
    def change(tensors):
        name = next(name for name in tensors if name.startswith(prefix))
        flat = tensors[name].reshape(-1)
        flat[0] = flat[0] + 1

    return change


@pytest.mark.parametrize(
    ("name", "prefix", "kind"),
    [
        ("adapter_model.safetensors", "base_model", "parameters_differing"),
        (STATE, "optimizer.exp_avg.", "optimizer_tensors_differing"),
        (STATE, "rng.", "rng_states_differing"),
        (STATE, "draws.", "sampler_differing"),
    ],
)
def test_a_tensor_that_differs_is_seen(checked, tmp_path, name, prefix, kind):
    assert edited(checked, tmp_path, name, nudge(prefix)) == {kind}


def headers(checked, tmp_path, change):
    """A copy of the interrupted way whose checkpoint header was changed."""
    other = tmp_path / "edited"
    shutil.copytree(checked.work / "twice", other)
    path = other / "steps" / f"step_{STEPS}" / STATE
    tensors, meta = load_tensors(path, "torch"), read_meta(path)
    change(meta)
    save_tensors(path, tensors, meta)
    return other


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda meta: meta["schedule"]["lr"].update(lora=0.5), "schedule_differing"),
        (lambda meta: meta["schedule"].update(clip=0.5), "schedule_differing"),
        (lambda meta: meta["loader"]["cursors"].update(a2t=0), "sampler_differing"),
        (lambda meta: meta["loader"].update(settings="0"), "sampler_differing"),
        (lambda meta: meta["counters"]["monitors"].update(norms=[]), "monitors_differing"),
        (lambda meta: meta["counters"]["monitors"].update(clipped_steps=99), "monitors_differing"),
        (lambda meta: meta["counters"].pop("monitors"), "monitors_differing"),
        (lambda meta: meta["counters"]["interval"].update(tokens=1), "intervals_differing"),
        (lambda meta: meta["counters"].update(measured={}), "intervals_differing"),
    ],
)
def test_a_part_of_the_header_that_differs_is_seen(checked, tmp_path, change, kind):
    found = resume.compare(checked.work / "once", headers(checked, tmp_path, change), STEPS)
    assert {name for name, (names, _) in found.items() if names} == {kind}


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        (lambda meta: meta["counters"].pop("monitors"), "counters.monitors.norms"),
        (lambda meta: meta["counters"]["interval"].pop("nll"), "counters.interval.nll"),
        (lambda meta: meta["schedule"].pop("betas"), "schedule.betas"),
        (lambda meta: meta["loader"].pop("next_step"), "loader.next_step"),
    ],
)
def test_a_part_that_no_checkpoint_carries_is_missed(checked, tmp_path, change, absent):
    prepared = resume.prepare_train(resume._short_context(checked, STEPS))
    names, n = resume.missing(prepared, headers(checked, tmp_path, change) / "steps" / f"step_{STEPS}")
    assert absent in names and n > 30


def test_a_batch_a_draw_and_a_loss_that_differ_are_seen(checked, tmp_path):
    other = tmp_path / "edited"
    shutil.copytree(checked.work / "twice", other)
    seen = read_json(other / "seen.json")
    seen["2"]["batch"], seen["1"]["drawn"] = "0" * 64, 0.5
    write_json(other / "seen.json", seen)
    rows = (other / "metrics.jsonl").read_text().splitlines()
    (other / "metrics.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    found = resume.compare(checked.work / "once", other, STEPS)
    assert {kind for kind, (names, _) in found.items() if names} == {
        "batches_differing",
        "rng_states_differing",
        "losses_differing",
    }


def test_loading_anything_is_seen(checked, monkeypatch, tmp_path):
    prepared = resume.prepare_train(resume._short_context(checked, STEPS))
    monkeypatch.setattr(resume, "load_checkpoint", lambda *_: None)
    found = resume.refusals(prepared, checked.work / "once" / "steps" / f"step_{STEPS}", tmp_path)
    assert all(said is None for attempts in found.values() for said in attempts.values())


def test_a_failing_process_is_an_error(checked, monkeypatch, tmp_path):
    monkeypatch.setattr(resume.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="ended with 1"):
        resume._in_new_process(resume._short_context(checked, STEPS), tmp_path, STEPS, 2)
