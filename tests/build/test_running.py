"""Kills, locks, full disks, errors and exit codes, with real processes."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from mmpt.build.runner import out_of_reach
from mmpt.build.turn import Turn
from mmpt.store.canonical import read_json


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_no_process_and_goes_on_where_it_was(tiny, signum):
    processes = tiny.kill_in_the_middle(signum)
    tiny.wait_for(lambda: not any(alive(pid) for pid in processes))
    assert not (tiny.root / "slow").exists()
    again = tiny.doit()
    assert (again.code, "count" in again.ran, "double" in again.ran) == (0, False, False), again
    steps = [line for line in (tiny.root / "logs/slow.log").read_text().splitlines() if line.startswith("step")]
    assert steps[0].split()[1] in ("3", "4"), "it went on from its work folder"
    assert list((tiny.root / ".staging").glob("*-slow-*")) == []
    if signum != signal.SIGKILL:
        return
    manifest = (tiny.root / "slow/MANIFEST.sha256").read_bytes()
    (tiny.root / "slow/receipt.json").unlink()
    tiny.doit("slow")
    assert (tiny.root / "slow/MANIFEST.sha256").read_bytes() == manifest, (
        "resumed and uninterrupted give the same bytes"
    )


def test_a_complete_attempt_that_was_not_moved_into_place_is_adopted(built):
    slow, staging = built.root / "slow", built.root / ".staging"
    os.rename(slow, staging / "out-slow-1")
    (staging / "out-side-2" / "data").mkdir(parents=True)
    outcome = built.doit()
    assert "taken from an attempt that was complete" in outcome.text and outcome.code == 0, outcome
    assert slow.is_dir() and list(staging.glob("out-*")) == []


def test_an_attempt_of_another_definition_is_not_adopted(built):
    os.rename(built.root / "slow", built.root / ".staging" / "out-slow-1")
    built.edit("smoke.yaml", "steps: 3", "steps: 4")
    assert "slow             built in" in built.doit().text
    assert len(read_json(built.root / "slow/data/steps.json")) == 4


def test_a_second_run_is_told_who_holds_the_lock(tiny):
    tiny.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.3")
    first = tiny.start("slow")
    tiny.wait_for(lambda: (tiny.root / "logs/slow.log").exists())
    second = tiny.doit()
    assert second.code == 2 and f"process {first.pid} (doit slow)" in second.text, second
    assert tiny.doit("plan").code == 0, "looking is free"
    verified = tiny.doit("verify")
    assert verified.code == 2 and "a run is building there" in verified.text and f"process {first.pid}" in verified.text
    assert first.communicate(timeout=300) and first.returncode == 0
    assert tiny.doit("verify").code == 0, "it has ended"


def test_ctrl_c_while_commands_are_imported_is_one_line():
    code = "import sys; sys.argv[0] = '/bin/mmpt'; import mmpt.build; raise KeyboardInterrupt"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "mmpt: interrupted by SIGINT; nothing was begun\n")


def test_what_a_run_starts_does_not_get_ctrl_c_before_it_says_so():
    """The process that imports torch printed where it was interrupted."""
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with out_of_reach():
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_stop_interrupts_turns_and_waits_for_no_idle_thread():
    turn, ended, began, never = Turn(), [], threading.Event(), os.pipe()[0]

    def follow():
        try:
            with turn:
                began.set()
                turn.wait([never])
        except KeyboardInterrupt:
            ended.append("interrupted")

    busy = threading.Thread(target=follow, daemon=True)
    busy.start()
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    began.wait()
    start = time.monotonic()
    assert turn.stop(30) and time.monotonic() - start < 10
    busy.join(10)
    assert ended == ["interrupted"]
    with pytest.raises(KeyboardInterrupt), turn:
        pass


def test_a_users_error_is_one_line_and_leaves_nothing(tiny):
    tiny.edit("smoke.yaml", "n: 4", "n: -1")
    outcome = tiny.doit()
    assert (
        outcome.code == 2 and "count.n: a negative count; found -1" in outcome.text and "Traceback" not in outcome.text
    )
    assert not (tiny.root / "count").exists() and list((tiny.root / ".staging").glob("out-*")) == []
    assert outcome.text.splitlines()[-1] == "CANNOT-DECIDE"


def test_a_break_exits_1_with_the_log_and_leaves_the_other_branch_alone(tiny):
    tiny.edit("smoke.yaml", "how: plain", "how: break")
    outcome = tiny.doit()
    assert outcome.code == 1 and "RuntimeError: side went wrong" in outcome.text and "logs/side.log" in outcome.text
    assert "render" in outcome.ran and not (tiny.root / "side").exists()
    assert outcome.text.splitlines()[-1] == "GO, but failed: side", "the gates are good, the run is not"


def test_a_stage_that_is_killed_is_said_so(tiny):
    tiny.edit("smoke.yaml", "how: plain", "how: die")
    outcome = tiny.doit("side")
    assert outcome.code == 1 and "killed by SIGKILL (out of memory?)" in outcome.text


def test_a_missing_declared_output_is_refused(tiny):
    tiny.edit("smoke.yaml", "how: plain", "how: nothing")
    outcome = tiny.doit("side")
    assert (
        "did not write an output it declares; expected side.json" in outcome.text and not (tiny.root / "side").exists()
    )


def test_a_full_disk_is_one_line_exit_2_and_nothing_half_written(built):
    before = (built.root / "side/MANIFEST.sha256").read_bytes()
    built.edit("smoke.yaml", "{how: plain, bytes: 0}", "{how: fill, bytes: 5000000}")
    outcome = built.real_doit(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)))
    assert (
        outcome.code == 2
        and "side             DISK: the disk is full" in outcome.text
        and "Traceback" not in outcome.text
    )
    assert (built.root / "side/MANIFEST.sha256").read_bytes() == before
    assert list((built.root / ".staging").glob("out-*")) == []


def test_a_stage_refused_by_a_gate_keeps_the_other_branch_and_the_decision(built):
    built.ask_for(99)
    built.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.001")
    built.edit("smoke.yaml", "how: plain", "how: other")
    outcome = built.doit()
    assert (outcome.code, outcome.ran, outcome.text.splitlines()[-1]) == (10, ["side"], "NO-GO"), outcome
    assert "not run: slow waits for gate:S1" in outcome.text
    assert read_json(built.root / "decision.json")["decision"] == "NO-GO"
    assert (built.root / "report/index.html").exists()


def test_single_needs_what_it_reads(tiny):
    outcome = tiny.doit("-s", "render")
    assert outcome.code == 2 and "it needs slow, which is not built" in outcome.text


def test_a_threshold_re_decides_without_running_anything(built):
    built.ask_for(99)
    outcome = built.doit("decide")
    assert (outcome.code, outcome.text.splitlines()[-1]) == (10, "NO-GO")
    assert built.doit("gates").code == 10
    assert "S1  GO -> NO_GO" in built.doit("history").text


def test_go_on_an_older_profile_is_no_go(built):
    built.edit("smoke.yaml", "n: 4", "n: 5")
    outcome = built.doit("decide")
    assert (outcome.code, outcome.text.splitlines()[-1]) == (20, "CANNOT-DECIDE")
    assert "stale: count: profile key count.n: 4 -> 5" in outcome.text


def test_code_edited_while_a_stage_runs_is_published_but_stale(tiny):
    tiny.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.3")
    run = tiny.start("slow")
    tiny.wait_for(lambda: (tiny.root / "logs/slow.log").exists())
    original = (tiny.folder / "bodies/stages.py").read_text()
    tiny.edit("bodies/stages.py", "** 2", "** 3")
    text, _ = run.communicate(timeout=300)
    assert "edited while the stage ran" in text
    (tiny.folder / "bodies/stages.py").write_text(original)
    assert "code bodies.stages:slow: edited while the stage ran" in tiny.doit("why", "slow").text


def test_media_edited_while_a_stage_runs_void_it(tiny):
    tiny.edit(
        "bodies/stages.py",
        'write_json(ctx.out / "numbers.json", list',
        'time.sleep(1)\n    write_json(ctx.out / "numbers.json", list',
    )
    run = tiny.start("count")
    tiny.wait_for(lambda: (tiny.root / "logs/count.log").exists())
    (tiny.folder / "media" / "b.txt").write_text("new")
    text, _ = run.communicate(timeout=300)
    assert run.returncode == 2 and "changed while the stage ran" in text and not (tiny.root / "count").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["profle=x"], "unknown variable; found profle=x; expected profile=NAME; did you mean 'profile'?"),
        (["--sinlge"], "unknown option; found --sinlge; did you mean '--single'?"),
        (["slwo"], "no such stage; found slwo; did you mean 'slow'?"),
        (["slow", "-x"], "unknown option; found -x"),
        (["why"], "wrong number of words; found nothing; expected STAGE"),
        (["list", "more"], "wrong number of words; found more"),
        (["plan", "profle=x"], "unknown variable"),
        (["verify", "--dep"], "did you mean '--deep'?"),
        (["profile="], "a variable without a value"),
        (["waive", "S1", "--reason", "a=b"], "arguments are required: --expires"),
        (["reset-dep"], "no command marks a stage or a gate as done"),
        (["ignore", "gate:S1"], "see `doit waive`"),
        (["-a"], "names no stage"),
        (["sample", "--task", "t2i", "--prompt", "", "--nonsense"], "unknown option; found --nonsense"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(tiny, words, said):
    outcome = tiny.doit(*words)
    assert outcome.code == 2 and said in outcome.text and len(outcome.text.splitlines()) == 1, outcome
    assert not tiny.root.exists()


def test_a_bar_is_drawn_on_a_terminal(tiny):
    import pty

    main, side = pty.openpty()
    tiny.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.2")
    process = subprocess.Popen(
        [sys.executable, "-m", "doit", "slow"],
        cwd=tiny.folder,
        stdout=side,
        stderr=side,
        env={**os.environ, "PYTHONPATH": str(tiny.repo), "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(side)
    seen = b""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            seen += os.read(main, 65536)
        except OSError:  # the other side is closed
            break
    assert process.wait(timeout=300) == 0 and "━".encode() in seen and b"3/3" in seen
