"""A tiny project, run for real: five quick stages without torch, one gate, the real commands in a process of
their own.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.build.forked_doit import forked_doit

REPO = Path(__file__).resolve().parents[2]
FIXTURES = REPO / "tests" / "gating" / "fixtures"

DODO = """
from pathlib import Path

import yaml
from doit import get_var

from bodies.table import STAGES
from mmpt.build.tasks import gate_tasks, open_project, stage_tasks
from mmpt.profile import Profile
from mmpt.store.errors import UserError

HERE = Path(__file__).resolve().parent


def read(name):
    if not (HERE / f"{name}.yaml").is_file():
        raise UserError("no such profile", found=name)
    data = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    return Profile(data, HERE / f"{name}.yaml")


def project(profile):
    return open_project(profile, STAGES, HERE, ("bodies", "mmpt"), read)


def task_stage():
    yield from stage_tasks(project(get_var("profile", "smoke")))


def task_gate():
    yield from gate_tasks(project(get_var("profile", "smoke")))
"""

TABLE = """
from pathlib import Path

from mmpt.build.declaration import Output, Stage

EVIDENCE = (path.stem for path in sorted((Path(__file__).parent / "evidence").glob("*.json")))
STAGES = (
    Stage("count", "count up", "bodies.stages:count", slice=("count",), external=("corpus.sources",),
          outputs=(Output("numbers.json"),)),
    Stage("double", "twice as much", "bodies.stages:double", inputs=("count",),
          outputs=(Output("numbers.json"),), measures=("S1", *EVIDENCE)),
    Stage("slow", "step by step", "bodies.stages:slow", inputs=("double",), slice=("slow",), needs=("S1",), reuses=True,
          outputs=(Output("steps.json"),)),
    Stage("side", "a branch without a gate", "bodies.stages:side", inputs=("count",), slice=("side",),
          outputs=(Output("side.json"),)),
    Stage("render", "reads the slow one", "bodies.stages:render", inputs=("slow",), slice=("score",),
          outputs=(Output("score.json"), Output("report_data.json", "report_data")), reported=True),
)
"""

BODIES = '''
"""Bodies of the tiny project."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from bodies.arithmetic import add
from bodies.scale import FACTOR
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.evidence import Metric, write_evidence


def count(ctx):
    """Numbers below n."""
    if ctx.profile["count.n"] < 0:
        raise UserError("a negative count", where="count.n", found=ctx.profile["count.n"])
    write_json(ctx.out / "numbers.json", list(range(ctx.profile["count.n"])))


def double(ctx):
    numbers = [add(one, one) * FACTOR for one in read_json(ctx.inputs["count"] / "numbers.json")]
    write_json(ctx.out / "numbers.json", numbers)
    others = [Metric(**one) for one in read_json(Path(__file__).parent / "s1.json")["metrics"]]
    write_evidence(ctx.out, "S1", [Metric("total", sum(numbers), len(numbers)), *others], subject={})
    for path in sorted((Path(__file__).parent / "evidence").glob("*.json")):
        shutil.copyfile(path, ctx.out / "evidence" / path.name)


def slow(ctx):
    ctx.log(f"earlier: {[str(path) for path in ctx.earlier]}")
    done = read_json(ctx.work / "done.json") if (ctx.work / "done.json").exists() else []
    while len(done) < ctx.profile["slow.steps"]:
        done.append(len(done) ** 2)
        write_json(ctx.work / "done.json", done)
        ctx.progress(len(done), ctx.profile["slow.steps"], "steps")
        ctx.log(f"step {len(done)} of process {os.getpid()}")
        time.sleep(ctx.profile["slow.seconds"])
    ctx.info(process=os.getpid())
    write_json(ctx.out / "steps.json", done)


def side(ctx):
    import sidepack

    how = ctx.profile["side.how"]
    if how == "break":
        raise RuntimeError("side went wrong")
    if how == "die":
        os.kill(os.getpid(), 9)
    if how == "spawn":  # and wait; the trap tells that the stage's children were asked to end
        trap = f"trap 'echo ended >> {ctx.work}/trap; exit' TERM; echo $$; while :; do sleep 0.05; done"
        other = subprocess.Popen(["sh", "-c", trap], stdout=subprocess.PIPE)
        other.stdout.readline()  # its number: the trap is set
        ctx.log(f"waits as {os.getpid()} with {other.pid} below {os.getppid()}")
        other.wait()
    if how == "fill":
        (ctx.out / "side.json").write_bytes(bytes(ctx.profile["side.bytes"]))
    elif how != "nothing":
        write_json(ctx.out / "side.json", [how, len(read_json(ctx.inputs["count"] / "numbers.json"))])


def render(ctx):
    nothing = {key: [] for key in ("corpus", "drops", "curves", "trend", "ablation", "texts", "gallery")}
    write_json(ctx.out / "report_data.json", {"schema": "report_data/2", **nothing})
    steps = read_json(ctx.inputs["slow"] / "steps.json")
    write_json(ctx.out / "score.json", sum(steps) + ctx.profile["score.bonus"])
'''

TOTAL = """{
            "id": "total",
            "metric": "total",
            "rule": "min",
            "message": "too little",
            "remedy": "count further",
        },
"""

PROFILE = """
name: smoke
seed: 1
runtime: {device: cpu, dtype: float32, threads: 1}
corpus: {sources: [{name: media, reader: generated, path: MEDIA}]}
codecs: {audio: {name: melrvq}, image: {name: patchvq}}
mixture: {prompt_dropout: 0.1, weights: {a2t: 1, i2t: 1, t2a: 1, t2i: 1}}
count: {n: 4}
slow: {steps: 3, seconds: 0.0}
side: {how: plain, bytes: 0}
score: {bonus: 0}
unread: {by: nobody}
"""


def policy() -> str:
    """The real policy, with a total for S1."""
    body = yaml.safe_load((REPO / "gates" / "policy.yaml").read_text())
    body["gates"]["S1"] = {"total": {"severity": "block", "threshold": 1}} | body["gates"]["S1"]
    return yaml.safe_dump(body, sort_keys=False)


def gate_scripts() -> dict[str, str]:
    """The real gate scripts with every gate measured by one tiny stage, and S1 asking for a total first."""
    found = {}
    for path in (REPO / "gates").glob("*.py"):
        text = re.sub(r'"stage": "\w+"', '"stage": "double"', path.read_text())
        if path.name == "s1_manifest.py":
            text = text.replace("Every record has its medium and its caption", "Enough")
            text = text.replace('"checks": [', '"checks": [\n        ' + TOTAL, 1)
        found[f"gates/{path.name}"] = text
    return found


class Tiny:
    """The project's folder, and `doit` run in it."""

    repo = REPO

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "media").mkdir(parents=True)
        (folder / "media" / "a.txt").write_text("a medium")
        for name, text in {
            "dodo.py": DODO,
            "bodies/table.py": TABLE,
            "bodies/stages.py": BODIES,
            "bodies/__init__.py": "",
            "bodies/arithmetic.py": "def add(a, b):\n    return a + b\n",
            "bodies/scale.py": "FACTOR = 1\n",
            "sidepack.py": "",
            "sidepack-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: sidepack\nVersion: 1.0\n",
            "gates/policy.yaml": policy(),
            **gate_scripts(),
            "gates/baselines.json": '{"version": 1, "profiles": {}}',
            "smoke.yaml": PROFILE.replace("MEDIA", str(folder / "media")),
            "pyproject.toml": (REPO / "pyproject.toml").read_text(),
        }.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text.lstrip("\n"))
        (folder / "bodies" / "evidence").mkdir()
        for path in FIXTURES.glob("*/good.json"):
            name = "s1.json" if path.parent.name == "S1" else f"evidence/{path.parent.name}.json"
            shutil.copyfile(path, folder / "bodies" / name)

    @property
    def root(self) -> Path:
        return self.folder / "artifacts" / "smoke"

    def start(self, *words: str, **more) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "doit", *words],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **more,
        )

    def doit(self, *words: str) -> "Outcome":
        return Outcome(*forked_doit(self.folder, *words))

    def real_doit(self, *words: str, **more) -> "Outcome":
        """The same from a fresh interpreter, for what a fork of this process cannot show."""
        process = self.start(*words, **more)
        text, _ = process.communicate(timeout=300)
        return Outcome(process.returncode, text)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def ask_for(self, total: int) -> None:
        """Set the threshold of gate S1."""
        path = self.folder / "gates" / "policy.yaml"
        body = yaml.safe_load(path.read_text())
        body["gates"]["S1"]["total"]["threshold"] = total
        path.write_text(yaml.safe_dump(body, sort_keys=False))

    def wait_for(self, there, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)

    def kill_in_the_middle(self, signum: int = signal.SIGKILL) -> list[int]:
        """Start a run, kill doit after two slow steps, return the processes that the slow stage ran in."""
        self.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.2")
        self.edit("smoke.yaml", "steps: 3", "steps: 8")
        process, log = self.start(), self.root / "logs" / "slow.log"
        self.wait_for(lambda: log.exists() and "step 2" in log.read_text())
        process.send_signal(signum)
        process.communicate(timeout=300)
        return sorted({int(line.split()[-1]) for line in log.read_text().splitlines() if line.startswith("step")})


class Outcome:
    """Exit code, text, and which stages ran."""

    def __init__(self, code: int, text: str):
        self.code, self.text = code, text
        self.ran = [line.split()[0] for line in text.splitlines() if " runs: " in line and not line.startswith(" ")]

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.text}"


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A project in which nothing was built."""
    return Tiny(tmp_path / "project")


@pytest.fixture(scope="session")
def _built(tmp_path_factory) -> Tiny:
    project = Tiny(tmp_path_factory.mktemp("built") / "project")
    outcome = project.doit()
    assert outcome.code == 0, outcome
    return project


@pytest.fixture
def built(_built: Tiny, tmp_path: Path) -> Tiny:
    """A project in which everything was built, copied to a new place."""
    subprocess.run(["cp", "-a", str(_built.folder), str(tmp_path / "project")], check=True)
    copy = object.__new__(Tiny)
    copy.folder = tmp_path / "project"
    (copy.folder / "smoke.yaml").write_text(
        (copy.folder / "smoke.yaml").read_text().replace(str(_built.folder), str(copy.folder))
    )
    return copy
