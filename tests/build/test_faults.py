"""Processes that must end, signals, logs, read-only folders, full disks, clocks that jump."""

import contextlib
import ctypes
import datetime
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.lock import hold
from tests.build.conftest import Outcome
from tests.build.forked_doit import forked_doit
from tests.build.test_running import alive
from tests.build.test_tampering import named, open_tiny


def start_waiting(tiny, **more) -> tuple[subprocess.Popen, list[int]]:
    """Start a run whose stage waits beside a process of its own; doit, and the other processes involved."""
    tiny.edit("smoke.yaml", "how: plain", "how: spawn")
    process, log = tiny.start("side", **more), tiny.root / "logs" / "side.log"
    tiny.wait_for(lambda: log.exists() and "waits as" in log.read_text())
    told = re.search(r"waits as (\d+) with (\d+) below (\d+)", log.read_text())
    stage, other, parent = map(int, told.groups())
    return process, sorted({stage, other, parent} - {process.pid})


def all_gone(tiny, processes: list[int]) -> None:
    tiny.wait_for(lambda: not any(alive(pid) for pid in processes), seconds=20)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_a_body_started_ends_with_doit(tiny, signum):
    # Under nohup this process ignores SIGHUP, and so would doit.
    heard = (lambda: signal.signal(signum, signal.SIG_DFL)) if signum == signal.SIGHUP else None
    process, others = start_waiting(tiny, preexec_fn=heard)
    process.send_signal(signum)
    text, _ = process.communicate(timeout=60)
    all_gone(tiny, others)
    if signum == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        return
    assert process.returncode == 1 and f"interrupted by {signal.Signals(signum).name}" in text
    traps = list(tiny.root.glob(".staging/work-side-*/trap"))
    assert [path.read_text() for path in traps] == ["ended\n"], "the signal was passed on"


def test_the_process_that_torch_stages_are_forked_from_ends_too(tiny):
    tiny.edit("bodies/table.py", '"bodies.stages:side", inputs', '"bodies.stages:side", torch=True, inputs')
    # The real one imports torch, transformers and peft first, which takes 5 s.
    tiny.edit("dodo.py", "import yaml", "import yaml\nfrom mmpt.build import runner\nrunner.PRELOADED[:] = []")
    process, others = start_waiting(tiny)
    assert len(others) == 3, "stage, its child, and the parent that is not doit"
    process.kill()
    process.communicate(timeout=60)
    all_gone(tiny, others)


def test_nohup_holds(tiny):
    tiny.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.1")
    process = tiny.start("slow", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    tiny.wait_for(lambda: (tiny.root / "logs/slow.log").exists())
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_stage_waits_for_a_dying_one_in_its_work_folder(tiny, tmp_path):
    lock = tmp_path / "work.lock"
    owner = subprocess.Popen(["flock", str(lock), "sleep", "0.5"])
    tiny.wait_for(lambda: lock.exists())
    time.sleep(0.1)
    started = time.monotonic()
    with pytest.raises(UserError, match="a process of an earlier run still works there"):
        hold(lock, 0.05)
    os.close(hold(lock, 20.0))
    assert time.monotonic() - started > 0.1
    owner.wait()


def test_the_logs_of_earlier_attempts_are_kept(built):
    def logs(name):
        return sorted(path.name for path in (built.root / "logs").glob(f"{name}*"))

    built.edit("smoke.yaml", "how: plain", "how: break")
    assert built.doit("side").code == 1
    built.edit("smoke.yaml", "how: break", "how: other")
    assert built.doit("side").code == 0
    assert "side went wrong" in (built.root / "logs/side.1.log").read_text()
    assert "side went wrong" not in (built.root / "logs/side.log").read_text()
    for _ in range(4):
        assert built.doit("-a", "side").code == 0
    assert logs("side") == ["side.1.log", "side.2.log", "side.3.log", "side.4.log", "side.log"]


def without_write_permission() -> None:
    """Root may write everywhere by two capabilities: give them up, for this process and its children."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.fixture
def read_only(built):
    """A built project whose artifacts nobody may write."""
    subprocess.run(["chmod", "-R", "a-w", str(built.root)], check=True)
    yield built
    subprocess.run(["chmod", "-R", "u+w", str(built.root)], check=True)


def test_read_only_artifacts_can_be_looked_at(read_only):
    for words, said in (
        (["plan"], "fresh"),
        (["why", "slow"], "slow is fresh"),
        (["gates"], "GO"),
        (["verify", "--deep"], "all as published"),
        (["history"], "S1"),
        (["list"], "slow"),
    ):
        outcome = read_only.real_doit(*words, preexec_fn=without_write_permission)
        assert outcome.code == 0 and said in outcome.text, (words, outcome)
        assert "Traceback" not in outcome.text, outcome


@pytest.mark.parametrize("words", [[], ["decide"], ["report"], ["slow"]])
def test_read_only_artifacts_are_one_line_and_exit_2_to_who_would_write(read_only, words):
    outcome = read_only.real_doit(*words, preexec_fn=without_write_permission)
    assert outcome.code == 2 and len(outcome.text.splitlines()) == 1, outcome
    assert "artifacts/smoke/.state/lock: may not be written; found Permission denied" in outcome.text


def test_a_part_that_is_read_only_is_named(built):
    subprocess.run(["chmod", "-R", "a-w", str(built.root / "report")], check=True)
    built.ask_for(99)
    outcome = built.real_doit("decide", preexec_fn=without_write_permission)
    assert outcome.code == 2 and "report" in outcome.text and "Permission denied" in outcome.text, outcome
    assert "Traceback" not in outcome.text
    subprocess.run(["chmod", "-R", "u+w", str(built.root / "report")], check=True)
    assert built.doit("decide").code == 10 and named(open_tiny(built.folder)) == set()


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """A file system of ``size`` at ``folder``; skips where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(words, stderr=subprocess.PIPE)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


OFTEN = pytest.mark.slow  # one more of the same, three seconds each


@pytest.mark.parametrize("left_kib", [16, *(pytest.param(size, marks=OFTEN) for size in (0, 4, 40, 64))])
def test_a_disk_that_is_really_full_is_one_line_and_the_next_run_goes_on(tiny, left_kib):
    with small_disk(tiny.root, "8m"):
        assert tiny.doit("slow").code in (0, 20)
        ballast = tiny.root / ".staging" / "ballast"
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        os.truncate(ballast, ballast.stat().st_size - 1024 * left_kib)
        tiny.edit("smoke.yaml", "n: 4", "n: 5")
        full = tiny.doit()
        assert full.code == 2 and "the disk is full" in full.text and "Traceback" not in full.text, full
        ballast.unlink()
        again = tiny.doit()
        assert again.code == 0 and named(open_tiny(tiny.folder)) == set(), again


def at_another_time(days: float):
    """Let the clock of a process be wrong."""

    def first() -> None:
        real_ns, real, day = time.time_ns, time.time, datetime.timedelta(days=days)
        time.time_ns = lambda: real_ns() + int(day.total_seconds() * 1e9)
        time.time = lambda: real() + day.total_seconds()

        class Shifted(datetime.datetime):
            @classmethod
            def now(cls, zone=None):
                return super().now(zone) + day

        datetime.datetime = Shifted

    return first


@pytest.mark.parametrize("days", [-1000, *(pytest.param(days, marks=OFTEN) for days in (-0.02, 0.02, 1000))])
def test_a_clock_that_jumped_changes_nothing(built, days):
    def doit(*words):
        return Outcome(*forked_doit(built.folder, *words, first=at_another_time(days)))

    assert (doit().code, doit().ran) == (0, [])
    path = built.root / "render/data/score.json"
    found = path.stat()
    path.write_text(path.read_text().replace("5", "6"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    outcome = doit()
    assert outcome.ran == ["render"] and "render/data/score.json was edited" in outcome.text, outcome
    built.edit("smoke.yaml", "n: 4", "n: 5")
    assert doit().ran == ["count", "double", "slow", "side"]
    assert built.doit().ran == [] and named(open_tiny(built.folder)) == set()
    started = read_json(built.root / "side/receipt.json")["predicate"]["runDetails"]["metadata"]["startedOn"]
    past = datetime.datetime.fromisoformat(started) < datetime.datetime.now(datetime.UTC)
    assert past == (days < 0)  # the runs take less than 0.02 days, half an hour
