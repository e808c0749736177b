"""Two build graphs, each written as a project for doit (ours), for DVC and for Snakemake, with the same stages.

diamonds   stages of three a diamond (a join, then two that read it), a small file each; the first reads the source
files      `shards` writes thousands of files, `count` reads them all

The work of a stage is one function, `work.make`: a file is a digest of what it read, so that an edit upstream reaches
everything below it. Each call adds a line to ran.log: that is how reruns are counted, and not by what a tool says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = "source/input.txt"
WORK = '''"""What the stages of this project do."""

import hashlib
import sys
from pathlib import Path


def make(name, inputs, out, count, size):
    """Write `count` files of `size` bytes that depend on the bytes of all inputs."""
    with open(LOG, "a") as log:
        log.write(name + "\\n")
    state = hashlib.sha256(name.encode())
    for folder in inputs:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                state.update(path.read_bytes())
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        seed = hashlib.shake_128(state.digest() + number.to_bytes(4, "big"))
        (out / f"{number:05d}.bin").write_bytes(seed.digest(size))


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[5:], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
'''


@dataclass(frozen=True)
class Node:
    """A stage: what it reads (empty: the source) and how many files of how many bytes it writes."""

    name: str
    inputs: tuple[str, ...]
    count: int = 1
    size: int = 1000


@dataclass(frozen=True)
class Graph:
    """All stages, inputs before users; `middle` is the stage whose output the staleness checks spoil."""

    name: str
    nodes: tuple[Node, ...]
    middle: str


def diamonds(stages: int) -> Graph:
    nodes: list[Node] = []
    for number in range(stages):
        below = number - number % 3  # the join of this diamond
        inputs = (
            () if not number else (f"s{below:02d}",) if number % 3 else (f"s{number - 2:02d}", f"s{number - 1:02d}")
        )
        nodes.append(Node(f"s{number:02d}", inputs))
    return Graph("diamonds", tuple(nodes), nodes[stages // 2 // 3 * 3].name)


def files(count: int, size: int) -> Graph:
    return Graph("files", (Node("shards", (), count, size), Node("count", ("shards",))), "shards")


@dataclass(frozen=True)
class Laid:
    """A project on disk: its folder, its commands, where the output of a stage lies."""

    folder: Path
    run: tuple[str, ...]
    look: tuple[str, ...]
    data: Callable[[str], Path]

    @property
    def log(self) -> Path:
        return self.folder / "ran.log"


def _start(folder: Path) -> None:
    (folder / "source").mkdir(parents=True)
    (folder / SOURCE).write_text("the source\n" * 10)
    (folder / "ran.log").touch()


def _command(graph: Graph, node: Node, python: str, out: str) -> str:
    inputs = " ".join(f"out/{name}" for name in node.inputs) or "source"
    return f"{python} work.py {node.name} {out} {node.count} {node.size} {inputs}"


def lay_dvc(graph: Graph, folder: Path, python: str, program: str) -> Laid:
    """dvc.yaml with the outputs cached, as DVC does it by default; without git (`dvc init --no-scm`)."""
    _start(folder)
    (folder / "work.py").write_text(WORK.replace("LOG", '"ran.log"'))
    stages = {
        node.name: {
            "cmd": _command(graph, node, python, f"out/{node.name}"),
            "deps": ["work.py", *([f"out/{name}" for name in node.inputs] or [SOURCE])],
            "outs": [f"out/{node.name}"],
        }
        for node in graph.nodes
    }
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))  # JSON is YAML
    return Laid(folder, (program, "repro", "-q"), (program, "status", "-q"), lambda name: folder / "out" / name)


def lay_snakemake(graph: Graph, folder: Path, python: str, program: str, listed: bool) -> Laid:
    """A Snakefile with every output file listed, or (what its users write for many files) with directory() outputs."""
    _start(folder)
    (folder / "work.py").write_text(WORK.replace("LOG", '"ran.log"'))
    counts = {node.name: node.count for node in graph.nodes}

    def named(name: str, output: bool) -> str:
        if listed:
            return f'expand("out/{name}/{{i:05d}}.bin", i=range({counts[name]}))'
        return f'directory("out/{name}")' if output else f'"out/{name}"'

    last = [node.name for node in graph.nodes if not any(node.name in other.inputs for other in graph.nodes)]
    rules = [f"rule all:\n    input: {', '.join(named(name, False) for name in last)}\n"]
    for node in graph.nodes:
        inputs = ", ".join(named(name, False) for name in node.inputs) or f'"{SOURCE}"'
        command = _command(graph, node, python, f"out/{node.name}")
        rules.append(
            f'rule {node.name}:\n    input: {inputs}, "work.py"\n    output: {named(node.name, True)}\n'
            f'    shell: "{command}"\n'
        )
    (folder / "Snakefile").write_text("\n".join(rules))
    run = (program, "--cores", "1", "--quiet", "all")
    return Laid(folder, run, (*run, "--dry-run"), lambda name: folder / "out" / name)


DODO = """
from pathlib import Path

import yaml
from doit import get_var

from bodies.table import STAGES
from mmpt.build.tasks import gate_tasks, open_project, stage_tasks
from mmpt.profile import Profile

HERE = Path(__file__).resolve().parent


def read(name):
    return Profile(yaml.safe_load((HERE / "bench.yaml").read_text()), HERE / "bench.yaml")


def project(profile):
    return open_project("bench", STAGES, HERE, ("bodies", "mmpt"), read)


def task_stage():
    yield from stage_tasks(project("bench"))


def task_gate():
    yield from gate_tasks(project("bench"))
"""

BODIES = """
from bodies.work import make

NODES = {nodes}


def body(ctx):
    count, size = NODES[ctx.name]
    make(ctx.name, list(ctx.inputs.values()) or [ctx.external["source"]], ctx.out, count, size)
"""


def lay_ours(graph: Graph, folder: Path, python: str, repo: Path) -> Laid:
    """A table of stages over mmpt.build with this repository's gates. None can be decided here: exit code 20."""
    _start(folder)
    table = [
        f"    Stage({node.name!r}, 'bench', 'bodies.stages:body', inputs={node.inputs!r}, "
        f"external={() if node.inputs else ('corpus.sources',)!r}, outputs=(Output('*.bin'),)),"
        for node in graph.nodes
    ]
    profile = {
        "name": "bench",
        "seed": 1,
        "runtime": {"device": "cpu", "dtype": "float32", "threads": 1},
        "corpus": {"sources": [{"name": "source", "reader": "generated", "path": str(folder / "source")}]},
    }
    sizes = {node.name: (node.count, node.size) for node in graph.nodes}
    for name, text in {
        "dodo.py": DODO,
        "bench.yaml": json.dumps(profile),
        "bodies/__init__.py": "",
        "bodies/table.py": "from mmpt.build.declaration import Output, Stage\n\nSTAGES = (\n"
        + "\n".join(table)
        + "\n)\n",
        "bodies/work.py": WORK.replace("LOG", repr(str(folder / "ran.log"))),
        "bodies/stages.py": BODIES.format(nodes=sizes),
        **{
            f"gates/{one.name}": one.read_text()
            for one in (repo / "gates").iterdir()
            if one.suffix in (".py", ".yaml", ".json")
        },
        "pyproject.toml": (repo / "pyproject.toml").read_text(),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.lstrip("\n"))
    doit = (python, "-m", "doit")
    return Laid(folder, doit, (*doit, "plan"), lambda name: folder / "artifacts" / "bench" / name / "data")
