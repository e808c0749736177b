"""Our build against DVC and Snakemake on the same graphs: doit bench build [--peers VENV].

For each graph of build_graphs.py: the time of a run with nothing to do and of a dry run, each in a process of its own,
as a user starts it; the tools take turns, so that a machine that slows down slows them all. Then for each change: which
tools notice it, and what they run again. Prints tables, writes results/build-<chip>-<date>.json.

VENV is a virtual environment with `dvc` and `snakemake` (pip install dvc snakemake); a missing tool is shown as absent.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmpt
from mmpt.bench import build_graphs as graphs
from mmpt.bench import machine, record
from mmpt.bench.build_graphs import Graph, Laid
from mmpt.build.commandline import user_path

REPO = Path(__file__).resolve().parents[2]
FINE = {"mmpt": (0, 20)}  # 20: its gates have no evidence here; deciding so is part of its time


@dataclass(frozen=True)
class Tool:
    """A build tool: `lay` writes a graph's project into a folder, `version` asks for it."""

    name: str
    lay: Callable[[Graph, Path], Laid]
    version: tuple[str, ...]


def tools(peers: Path) -> list[Tool]:
    """Ours first. Programs of the peers are looked for in `peers`/bin."""
    python, dvc, snakemake = sys.executable, str(peers / "bin" / "dvc"), str(peers / "bin" / "snakemake")
    return [
        Tool("mmpt", lambda g, f: graphs.lay_ours(g, f, python, REPO), (python, "-m", "doit", "--version")),
        Tool("DVC", lambda g, f: graphs.lay_dvc(g, f, python, dvc), (dvc, "--version")),
        Tool(
            "Snakemake, directory()",
            lambda g, f: graphs.lay_snakemake(g, f, python, snakemake, listed=False),
            (snakemake, "--version"),
        ),
        Tool(
            "Snakemake, files listed",
            lambda g, f: graphs.lay_snakemake(g, f, python, snakemake, listed=True),
            (snakemake, "--version"),
        ),
    ]


@dataclass(frozen=True)
class Yard:
    """A tool's project of one graph."""

    tool: Tool
    laid: Laid

    def call(self, words: tuple[str, ...], *, must: bool = True) -> float:
        """Seconds of one command. RuntimeError with its last words when it fails."""
        bin_folder = str(Path(words[0]).parent)
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPO),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        start = time.perf_counter()
        done = subprocess.run(words, cwd=self.laid.folder, env=environment, capture_output=True, text=True, check=False)
        spent = time.perf_counter() - start
        if must and done.returncode not in FINE.get(self.tool.name, (0,)):
            raise RuntimeError(
                f"{self.tool.name}: {' '.join(words)} ended with {done.returncode}: {done.stderr[-1500:]}"
            )
        return spent

    def ran(self) -> list[str]:
        """Stages that ran since the last time this was asked."""
        names = self.laid.log.read_text().split()
        self.laid.log.write_text("")
        return names


def lay(tool: Tool, graph: Graph, root: Path) -> Yard:
    yard = Yard(tool, tool.lay(graph, root / re.sub("[^a-z]+", "-", tool.name.lower()).strip("-")))
    if tool.name == "DVC":
        yard.call((tool.version[0], "init", "--no-scm", "-q"))
    return yard


def present(all_tools: list[Tool]) -> tuple[list[Tool], dict[str, str]]:
    """(tools that answer, name -> version or why it is absent)."""
    found, versions = [], {}
    for tool in all_tools:
        try:
            done = subprocess.run(tool.version, capture_output=True, text=True, check=True, cwd=REPO)
        except (OSError, subprocess.CalledProcessError) as error:
            versions[tool.name] = f"absent: {type(error).__name__}: {tool.version[0]}"
            continue
        found.append(tool)
        said = done.stdout.strip().splitlines()[0]
        versions[tool.name] = f"{mmpt.__version__}, doit {said}" if tool.name == "mmpt" else said
    return found, versions


def spread(seconds: list[float]) -> dict[str, float]:
    quantiles = {"median": 0.5, "p10": 0.1, "p90": 0.9}
    return {**{name: machine.quantile(seconds, share) for name, share in quantiles.items()}, "runs": len(seconds)}


def time_no_op(yards: list[Yard], repeats: int) -> dict[str, dict]:
    """Tool -> first build, then spreads of `run` and `look` with nothing to do, which must run nothing."""
    found: dict[str, dict] = {}
    for yard in yards:
        found[yard.tool.name] = {"first_build": yard.call(yard.laid.run)}
        yard.call(yard.laid.run)  # what a tool learns in its first look at finished outputs
        yard.ran()
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for yard in yards:
            for what in ("run", "look"):
                seconds = yard.call(getattr(yard.laid, what))
                times.setdefault((yard.tool.name, what), []).append(seconds)
    for (name, what), measured in times.items():
        found[name][what] = spread(measured)
    for yard in yards:
        if names := yard.ran():
            raise RuntimeError(f"{yard.tool.name} ran {names} with nothing to do")
    return found


def _keep_time(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's bytes and put its times back: what `cp -p` and `rsync -t` leave behind."""
    before = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def _edit(path: Path) -> None:
    path.write_bytes(_flip(path.read_bytes()))


def _comment(path: Path) -> None:
    path.write_text(path.read_text() + "# a remark\n")


def changes(graph: Graph) -> dict[str, tuple[Callable[[Laid], Path], Callable[[Path], object]]]:
    """What happens -> (the file it happens to, how)."""

    def source(laid: Laid) -> Path:
        return laid.folder / graphs.SOURCE

    def output(laid: Laid) -> Path:
        return laid.data(graph.middle) / "00000.bin"

    def extra(laid: Laid) -> Path:
        return laid.data(graph.middle) / "extra.bin"

    def code(laid: Laid) -> Path:
        return next(path for path in (laid.folder / "bodies" / "work.py", laid.folder / "work.py") if path.exists())

    return {
        "source touched": (source, lambda path: path.touch()),
        "source edited": (source, _edit),
        "source edited, same size and time": (source, lambda path: _keep_time(path, _flip)),
        "output edited": (output, _edit),
        "output edited, same size and time": (output, lambda path: _keep_time(path, _flip)),
        "output deleted": (output, lambda path: path.unlink()),
        "file added to an output": (extra, lambda path: path.write_bytes(b"not one of ours")),
        "comment in the code": (code, _comment),
        "code edited": (
            code,
            lambda path: path.write_text(path.read_text().replace("name.encode()", "name.encode() + b'.'")),
        ),
    }


def check_staleness(yard: Yard, graph: Graph) -> dict[str, dict]:
    """Change -> {ran: stages, seconds, healed: is the output as it was built}; the project is put right after each."""
    found = {}
    for what, (where, change) in changes(graph).items():
        path = where(yard.laid)
        before = (path.read_bytes(), path.stat()) if path.exists() else None
        time.sleep(0.02)  # a tool that goes by time must see another one
        change(path)
        spoilt = path.read_bytes() if path.exists() else None
        seconds = yard.call(yard.laid.run, must=False)
        ran = yard.ran()
        now = path.read_bytes() if path.exists() else None
        found[what] = {"ran": sorted(set(ran)), "seconds": seconds}
        if "output" in what:
            found[what]["healed"] = now != spoilt and now == (before[0] if before else None)
        _restore(yard, path, before)
    return found


def _restore(yard: Yard, path: Path, before: tuple[bytes, os.stat_result] | None) -> None:
    """The file as it was, and the tool content with it."""
    if before is None:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_bytes() != before[0]:
        if path.exists():
            path.chmod(0o644)
        path.write_bytes(before[0])
    yard.call(yard.laid.run, must=False)
    yard.ran()


def no_op_table(graph: Graph, times: dict[str, dict]) -> str:
    lines = [
        f"{graph.name}: {len(graph.nodes)} stages, {sum(node.count for node in graph.nodes)} files",
        f"  {'seconds':26}{'first build':>12}{'no-op':>9}{'p10':>8}{'p90':>8}"
        f"{'dry':>9}{'p10':>8}{'p90':>8}{'x ours':>8}",
    ]
    ours = times["mmpt"]["run"]["median"]
    for name, one in times.items():
        cells = "".join(
            f"{one[what][key]:>{width}.2f}"
            for what in ("run", "look")
            for key, width in (("median", 9), ("p10", 8), ("p90", 8))
        )
        lines.append(f"  {name:26}{one['first_build']:>12.1f}{cells}{one['run']['median'] / ours:>8.1f}")
    return "\n".join(lines)


def staleness_table(graph: Graph, found: dict[str, dict[str, dict]]) -> str:
    total = len(graph.nodes)
    lines = [f"{graph.name}: stages that run again of {total}; 'healed': a spoilt output was found and put right"]
    for what in next(iter(found.values())):
        cells = []
        for name, one in found.items():
            healed = {True: ", healed", False: ", NOT healed", None: ""}[one[what].get("healed")]
            cells.append(f"{name}: {len(one[what]['ran'])}{healed}")
        lines.append(f"  {what:36}{'   '.join(cells)}")
    return "\n".join(lines)


def bench(graph: Graph, chosen: list[Tool], repeats: int, root: Path, times_only: bool) -> dict:
    """Times and staleness of one graph over all tools; prints both tables."""
    yards = [lay(tool, graph, root / graph.name) for tool in chosen]
    times = time_no_op(yards, repeats)
    print(no_op_table(graph, times), flush=True)
    found = {} if times_only else {yard.tool.name: check_staleness(yard, graph) for yard in yards}
    if found:
        print(staleness_table(graph, found), flush=True)
    nodes = [{"name": node.name, "inputs": node.inputs, "files": node.count, "size": node.size} for node in graph.nodes]
    return {"graph": graph.name, "stages": nodes, "times": times, "staleness": found}


def main(argv: Sequence[str] | None = None) -> None:
    """Lays the projects out in a temporary folder, measures, prints, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", type=user_path, default=sys.prefix, help="virtual environment with dvc and snakemake"
    )
    parser.add_argument("--only", choices=["diamonds", "files"])
    parser.add_argument("--stages", type=int, default=30)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=100_000, help="bytes of each of those files")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--times-only", action="store_true", help="leave the staleness checks out")
    parser.add_argument("--folder", type=Path, help="where to work; about five times files x size is needed")
    arguments = parser.parse_args(argv)
    chosen, versions = present(tools(Path(arguments.peers).absolute()))
    print("\n".join(f"{name}: {version}" for name, version in versions.items()), flush=True)
    wanted = {"diamonds": graphs.diamonds(arguments.stages), "files": graphs.files(arguments.files, arguments.size)}
    results = []
    for name, graph in wanted.items():
        if arguments.only in (None, name):
            root = Path(tempfile.mkdtemp(prefix="build-", dir=arguments.folder))
            try:
                results.append(bench(graph, chosen, arguments.repeats, root, arguments.times_only))
            finally:
                shutil.rmtree(root, ignore_errors=True)
    found = {"cores": os.cpu_count(), "python": sys.version.split()[0], "versions": versions, "graphs": results}
    print(record.write("build", "cpu", found))


if __name__ == "__main__":
    main()
