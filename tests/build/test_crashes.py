"""A run that is ended anywhere goes on as if nothing had been: the same bytes, no finished stage again.

The runs here build one stage, with the gates, history, decision, report and index that follow from it, and
are hit at their k-th change to the file system (crashing/sitecustomize.py). A few telling places here; every
k under `-m slow`.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mmpt.build.receipts import read_receipt
from mmpt.build.verification import verify
from mmpt.gating import read_history
from mmpt.store.canonical import read_sealed
from mmpt.store.errors import UserError
from tests.build.forked_doit import REPO, forked_doit
from tests.build.test_tampering import open_tiny, published

HOOK = Path(__file__).parent / "crashing"
HOWS = ("KILL", "TERM", "full")
# what a place is called in the issue -> the change before which the run is hit; + 1: right after it
PLACES = {
    "a new attempt": r"os.mkdir .*/out-double-\d+",
    "its data": r"open .*/out-double-\d+/data/",
    "before the receipt": r"os.rename .*/out-double-\d+/receipt.json",
    "before publish": r"exchange",
    "after rename": r"exchange + 1",
    "the caches": r"os.rename .*/stat.json",
    "history": r"os.rename .*/history.jsonl",
    "verdict": r"os.rename .*/S1/verdict.json",
    "decision": r"os.rename .*/decision.json",
    "report": r"os.rename .*/index.html",
    "the report's seal": r"os.rename .*/drawn.json",
    "index": r"os.rename .*/INDEX.sha256",
}


class Ended:
    """How a run ended: exit status (negative: a signal), what it printed, the changes that it made."""

    def __init__(self, status: int, text: str, trace: list[str]):
        self.status, self.text, self.trace = status, text, trace

    def __repr__(self) -> str:
        return f"status {self.status}\n{self.text}\n" + "\n".join(self.trace[-3:])


def run(folder: Path, at: int = 0, how: str = "KILL") -> Ended:
    """`doit double`, hit at change ``at``; 0: not at all."""
    trace = folder.with_name("trace")
    trace.unlink(missing_ok=True)
    crash = {"CRASH_BELOW": folder / "artifacts", "CRASH_TRACE": trace, "CRASH_AT": at, "CRASH_HOW": how}
    environment = {key: str(value) for key, value in crash.items()}
    environment["PYTHONPATH"] = os.pathsep.join([str(HOOK), str(REPO)])  # for the stages' processes
    status, text = forked_doit(folder, "double", environment=environment, first=watch_this_process)
    return Ended(status, text, trace.read_text().splitlines())


def watch_this_process() -> None:
    os.environ["CRASH_DOIT"] = str(os.getpid())
    spec = importlib.util.spec_from_file_location("crashing", HOOK / "sitecustomize.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.fixture(scope="module")
def stale(_built, tmp_path_factory) -> Path:
    """A built project whose gate S1 is NO_GO, and which a change of code will make GO: all state moves."""
    project = object.__new__(type(_built))
    project.folder = tmp_path_factory.mktemp("stale") / "project"
    subprocess.run(["cp", "-a", str(_built.folder), str(project.folder)], check=True)
    project.edit("smoke.yaml", str(_built.folder), str(project.folder))
    project.ask_for(13)
    assert project.doit("decide").code == 10
    project.edit("bodies/scale.py", "FACTOR = 1", "FACTOR = 2")
    shutil.copyfile(project.folder / "smoke.yaml", project.folder / "original.yaml")
    return project.folder


@pytest.fixture(scope="module")
def uncrashed(stale, tmp_path_factory) -> tuple[Path, Ended]:
    folder = copy(stale, tmp_path_factory.mktemp("uncrashed"))
    ended = run(folder)
    assert ended.status in (0, 20) and "double           built in" in ended.text, ended
    return folder, ended


def copy(stale: Path, under: Path) -> Path:
    folder = under / "project"
    subprocess.run(["cp", "-a", str(stale), str(folder)], check=True)
    text = (folder / "original.yaml").read_text()
    (folder / "smoke.yaml").write_text(text.replace(str(stale), str(folder)))
    return folder


def lasting(folder: Path) -> dict[str, object]:
    """What must not depend on a crash: every published byte, but for times and what rests on times."""
    root, kept = folder / "artifacts" / "smoke", {}
    for name in published(root):
        path = root / name
        if name.endswith("receipt.json"):
            receipt = read_receipt(path)
            kept[name] = {**receipt["predicate"], "runDetails": 0, "subject": receipt["subject"]}
        elif name.endswith("history.jsonl"):
            timed = ("time", "previous", "digest")
            kept[name] = [{key: row[key] for key in row if key not in timed} for row in read_history(root)]
        elif name.startswith("report/") or name == "INDEX.sha256":
            kept[name] = "named"  # they tell times; verify holds them against the rest
        else:
            kept[name] = path.read_bytes()
    return kept


def finished(folder: Path, fingerprint: str) -> bool:
    """Whether a whole result of the new code lies there, published or about to be."""
    root = folder / "artifacts" / "smoke"
    for path in (root / "double/receipt.json", *root.glob(".staging/out-double-*/receipt.json")):
        try:
            if read_receipt(path)["predicate"]["fingerprint"] == fingerprint:
                return True
        except UserError:
            continue
    return False


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def check(stale: Path, uncrashed: tuple[Path, Ended], under: Path, at: int, how: str) -> str:
    """Hit a run at change ``at``, let another follow, compare; what the first was about to do."""
    reference, whole = uncrashed
    folder = copy(stale, under)
    hit = run(folder, at, how)
    place = f"{how} at {at}, {hit.trace[at - 1] if len(hit.trace) >= at else 'never'}"
    assert "Traceback" not in hit.text, f"{place}\n{hit}"
    expected = {"KILL": (-signal.SIGKILL,), "TERM": (1, whole.status), "full": (2, whole.status)}[how]
    assert hit.status in expected, f"{place}\n{hit}"
    processes = {int(line.split()[0]) for line in hit.trace}
    end = time.monotonic() + 10
    while not all(map(gone, processes)):
        assert time.monotonic() < end, f"{place}: processes live on"
        time.sleep(0.005)
    told = read_sealed(reference / "artifacts/smoke/double/receipt.json")
    done = finished(folder, told["predicate"]["fingerprint"])
    again = run(folder)
    assert again.status == whole.status and "Traceback" not in again.text, f"{place}\n{again}"
    assert not (done and "built in" in again.text), f"{place}: a finished stage ran again\n{again}"
    assert lasting(folder) == lasting(reference), place
    assert [line for _, found in verify(open_tiny(folder)) for line in found] == [], place
    assert not list((folder / "artifacts/smoke/.staging").glob("*-double-*")), place
    shutil.rmtree(folder)
    return place


def place(trace: list[str], wanted: str) -> int:
    pattern, _, after = wanted.partition(" + ")
    found = [at for at, line in enumerate(trace, 1) if re.search(pattern, line)]
    assert found, (wanted, trace)
    return found[0] + int(after or 0)


# Half of the telling places are tried by a kill, a quarter each by the others; -m slow tries all by all.
@pytest.mark.parametrize("how, first, step", [("KILL", 0, 2), ("TERM", 1, 4), ("full", 3, 4)])
def test_a_run_ended_at_a_telling_place_goes_on_to_the_same_bytes(stale, uncrashed, tmp_path, how, first, step):
    for name in list(PLACES)[first::step]:
        check(stale, uncrashed, tmp_path, place(uncrashed[1].trace, PLACES[name]), how)


@pytest.mark.slow  # two runs for each of some hundred places, three times over: about ten minutes
@pytest.mark.parametrize("how", HOWS)
def test_a_run_ended_at_any_change_goes_on_to_the_same_bytes(stale, uncrashed, tmp_path, how):
    count = len(uncrashed[1].trace)
    for at in range(1, count + 1):
        check(stale, uncrashed, tmp_path, at, how)
    print(f"{how}: {count} places")
