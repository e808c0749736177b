"""`doit -j 2`: stages that do not need each other run at the same time, and end as they do alone."""

import os
import signal

MEET = """
    for mine, other in (("slow", "side"), ("side", "slow")):
        if ctx.name == mine:
            (ctx.work.parent / f"{mine}-is-here").touch()
            for _ in range(2000):
                if (ctx.work.parent / f"{other}-is-here").exists():
                    break
                time.sleep(0.01)
            else:
                raise RuntimeError(f"{other} never came")
"""


def meeting(tiny):
    """Slow and side both wait for the other to have begun."""
    tiny.edit("bodies/stages.py", "def slow(ctx):\n", "def slow(ctx):\n    meet(ctx)\n")
    tiny.edit("bodies/stages.py", "    import sidepack\n", "    import sidepack\n    meet(ctx)\n")
    tiny.edit(
        "bodies/stages.py",
        "def slow(ctx):\n",
        f"def meet(ctx):\n{MEET.lstrip()}\n\ndef slow(ctx):\n".replace(
            "def meet(ctx):\nfor", "def meet(ctx):\n    for"
        ),
    )
    return tiny


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"


def test_two_stages_run_at_the_same_time(tiny):
    outcome = meeting(tiny).doit("-j", "2")
    assert outcome.code == 0 and sorted(outcome.ran) == ["count", "double", "render", "side", "slow"], outcome


def test_the_profile_may_ask_for_it(tiny):
    tiny.edit("smoke.yaml", "threads: 1}", "threads: 1, jobs: 2}")
    assert meeting(tiny).doit().code == 0


def test_another_number_of_jobs_makes_nothing_stale(built):
    built.edit("smoke.yaml", "threads: 1}", "threads: 1, jobs: 2}")
    outcome = built.doit()
    assert outcome.code == 0 and not outcome.ran, outcome


def test_one_broken_stage_leaves_the_other_its_result(tiny):
    tiny.edit("smoke.yaml", "how: plain", "how: break")
    outcome = tiny.doit("-j", "2")
    assert outcome.code == 1 and "side went wrong" in outcome.text, outcome
    assert (tiny.root / "slow" / "receipt.json").exists() and not (tiny.root / "side").exists()


def test_a_gate_holds_back_what_needs_it(tiny):
    tiny.ask_for(1000)
    outcome = tiny.doit("-j", "2")
    assert sorted(outcome.ran) == ["count", "double", "side"], outcome


def test_ctrl_c_ends_every_running_stage(tiny):
    tiny.edit("smoke.yaml", "how: plain", "how: spawn")
    tiny.edit("smoke.yaml", "steps: 3, seconds: 0.0", "steps: 400, seconds: 0.1")
    process = tiny.start("-j", "2")
    slow, side = (tiny.root / "logs" / f"{name}.log" for name in ("slow", "side"))
    tiny.wait_for(
        lambda: slow.exists() and "step 2" in slow.read_text() and side.exists() and "below" in side.read_text()
    )
    words = side.read_text().split("waits as ")[1].split()
    pids = [int(words[0]), int(words[2]), int(slow.read_text().split("of process ")[1].split()[0])]
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "BROKE" not in text and "Traceback" not in text, text
    assert all(gone(pid) for pid in pids), text
    tiny.edit("smoke.yaml", "how: spawn", "how: plain")
    tiny.edit("smoke.yaml", "steps: 400, seconds: 0.1", "steps: 400, seconds: 0.0")
    assert tiny.doit("-j", "2").code == 0


def test_a_wrong_number_is_refused(tiny):
    outcome = tiny.doit("-j", "0")
    assert outcome.code == 2 and "found 0, expected a number from 1 up" in outcome.text
