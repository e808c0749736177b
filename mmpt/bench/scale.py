"""Cost curves: doit bench scale [--records 1000 10000 ..] [--only split ..] [--folder KEPT].

Time, processor time and peak memory of what reads every record, at 1 k to 1 M generated records (scale_inputs.py): the
stages from corpus to golden as the build calls them, the stages of an import, schema validation, `doit` with nothing
to do, `doit verify`, and reading shards and examples as training does. Not measured: codecs (the shards stage gets one
that opens no file and computes nothing), large media, and a cold disk.

Each point is measured in a process of its own; another process made its inputs. A finished point is kept in
FOLDER/points, so an interrupted run goes on; delete FOLDER to measure again. Prints a line per point and writes
results/scale-<chip>-<date>.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpt.bench import scale_inputs as inputs
from mmpt.bench.scale_codecs import FreeEncoder, FreePicture, FreeSound
from mmpt.store.canonical import read_json, write_json
from mmpt.store.memory import status
from mmpt.store.tasks import MODALITIES

SIZES = (1_000, 10_000, 100_000, 1_000_000)
PROFILE: dict[str, Any] = {
    "corpus": {"sources": [{"name": "made", "reader": "captions"}], "on_bad_record": "fail"},
    "codecs": {"audio": {"name": "free"}, "image": {"name": "free"}},
    "split": {"val": 0.02, "test": 0.02},
    "shards": {"records_per_shard": 10_000, "batch": 256},
    "examples": {"max_seq_len": 2048},
    "golden": {"per_task": 64, "ablation": 256},
}
PEERED = 2_000  # records that jsonschema checks beside the compiled validator
DRAWN = 5_000  # examples that are read in the order of a training
FINE = (0, 20)  # 20: the project's gates have no evidence; deciding so is part of its time


@dataclass(frozen=True)
class Curve:
    """What is measured at each size.

    Args:
        says: one line for people.
        needs: makers of inputs and names of stages that must have run in the point's folder.
        run: called with (folder, n) in a process of its own; what it returns is kept with the point.
        most: the largest size.
    """

    says: str
    needs: tuple[str, ...]
    run: Callable[[Path, int], dict[str, Any] | None]
    most: int = 1_000_000


def _context(folder: Path, name: str, given: dict[str, Any] = PROFILE) -> Any:
    from mmpt.store.stage import SliceView, StageContext

    out, work = folder / name, folder / f"{name}.work"
    for path in (out, work):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    profile = SliceView(given, tuple(given), name)
    stages = ("corpus", "manifest", "split", "codecs", "token_space", "shards", "examples")
    return StageContext(name, profile, {one: folder / one for one in stages}, out, work, {"made": folder / "media"})


def run_reader(reader: str, folder: Path, n: int) -> None:
    """Stage corpus on the folder of the reader's name."""
    from mmpt.stages.corpus import corpus

    source = {"name": "made", "reader": reader, **({"file": "manifest.jsonl"} if reader == "table" else {})}
    given = {**PROFILE, "corpus": {"sources": [source], "on_bad_record": "fail"}}
    corpus(replace(_context(folder, f"corpus_{reader}", given), external={"made": folder / reader}))


def run_manifest(folder: Path, n: int) -> None:
    """Into a folder of its own: the other curves read a manifest whose media differ."""
    from mmpt.stages.manifest import manifest

    manifest(_context(folder, "measured_manifest"))


def run_split(folder: Path, n: int) -> None:
    from mmpt.stages.split import split

    split(_context(folder, "split"))


def run_shards(folder: Path, n: int) -> None:
    from mmpt.shards import tokenising
    from mmpt.stages.shards import shards

    tokenising.open_encoders = _free_encoders
    shards(_context(folder, "shards"))


def _free_encoders(ctx: Any, space: Any) -> dict[str, Any]:
    return {one: FreeEncoder(one, space) for one in MODALITIES}


def run_audit(folder: Path, n: int) -> None:
    from mmpt.stages import shard_audit

    shard_audit.open_encoders = _free_encoders
    shard_audit.shard_audit(_context(folder, "shard_audit"))


def run_golden(folder: Path, n: int) -> dict[str, Any]:
    """12 % of the records are of the test split."""
    from mmpt.stages.golden import golden

    golden(_context(folder, "golden"))
    return {"anonymous_mib": status("RssAnon") / 2**20}


def run_import(folder: Path, n: int) -> None:
    """What stands for split, shards and shard_audit in a profile with `inputs:`, one after another."""
    from mmpt.shards import imported

    imported.open_codecs = lambda folder, device: {"audio": FreeSound(), "image": FreePicture()}
    given = {side: [str(folder / "sequences" / f"{side}.jsonl")] for side in ("train", "eval")}
    profile = {**PROFILE, "inputs": {"jsonl": given, "token_space": str(folder / "token_space")}}
    here = folder / "imported"
    here.mkdir(exist_ok=True)
    for name in ("token_space", "codecs"):
        (here / name).unlink(missing_ok=True)
        (here / name).symlink_to(folder / name)
    for name in ("split", "shards", "shard_audit"):
        getattr(imported, name)(_context(here, name, profile))


def run_examples(folder: Path, n: int) -> None:
    from mmpt.stages.examples import examples

    examples(_context(folder, "examples"))


def run_reading(folder: Path, n: int) -> dict[str, Any]:
    """Opens the training examples of all tasks and draws some, as the loader does."""
    import numpy as np

    from mmpt.shards.example_set import ExampleSet
    from mmpt.tokens.formats import TASKS
    from mmpt.tokens.space import load

    space, rng, tokens = load(folder / "token_space"), np.random.default_rng(0), 0
    sets = [ExampleSet.open(folder / "examples", folder / "shards", space, task, "train") for task in TASKS]
    for _ in range(DRAWN // len(sets)):
        tokens += sum(len(one.draw(int(rng.integers(len(one))))) for one in sets)
    return {"drawn": DRAWN, "tokens": tokens, "anonymous_mib": status("RssAnon") / 2**20}


def run_long(folder: Path, n: int) -> dict[str, Any]:
    """Reads all tokens of a thousand records, one record after another."""
    from mmpt.shards.shard_set import ShardSet

    shards = ShardSet.open(folder / "long", "audio", "train")
    total = sum(int(shards.ids(index)[-1] >= 0) * len(shards.ids(index)) for index in range(len(shards)))
    if total != 1000 * (n // 10):
        raise RuntimeError(f"{total} tokens read")
    return {"tokens": total, "anonymous_mib": status("RssAnon") / 2**20}


def _validated(path: Path, schema: str) -> dict[str, Any]:
    """Checks a file; then, beside it, jsonschema alone on its first records, which are read already."""
    from itertools import islice

    from mmpt.store.jsonl import iter_jsonl
    from mmpt.store.schema import validate_file, validator

    start, worked = time.perf_counter(), time.process_time()
    validate_file(path, schema)
    spent = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - worked}
    some = list(islice(iter_jsonl(path), PEERED))
    check = validator(schema)
    start = time.perf_counter()
    if not all(check.is_valid(row) for row in some):
        raise RuntimeError(f"a made-up record does not hold {schema}")
    return {**spent, "jsonschema_us_a_record": (time.perf_counter() - start) / len(some) * 1e6}


def run_validate_manifest(folder: Path, n: int) -> dict[str, Any]:
    return _validated(folder / "manifest" / "manifest.jsonl", "manifest_record")


def run_validate_shards(folder: Path, n: int) -> dict[str, Any]:
    return _validated(folder / "shard_records.jsonl", "shard_record")


def _doit(folder: Path, project: str, *words: str) -> dict[str, Any]:
    """Seconds and memory of a command as a user starts it."""
    root = folder / f"project_{project}"
    environment = {**os.environ, "PYTHONPATH": f"{inputs.REPO}:{root}"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "doit", *words],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    spent = time.perf_counter() - start
    if done.returncode not in FINE:
        raise RuntimeError(
            f"doit {' '.join(words)} ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"
        )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": spent,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }


def build_records(folder: Path, n: int) -> dict[str, Any]:
    """The stage's own run, which checks and publishes what it wrote; then a look that learns the files' stats."""
    inputs.lay_project(folder, n, "records")
    return _built(folder, "records")


def build_files(folder: Path, n: int) -> dict[str, Any]:
    inputs.lay_project(folder, n, "files")
    return _built(folder, "files")


def _built(folder: Path, project: str) -> dict[str, Any]:
    built = _doit(folder, project)
    _doit(folder, project)
    return built


CURVES: dict[str, Curve] = {
    "validate manifest": Curve("a manifest read and checked against its schema", ("manifest",), run_validate_manifest),
    "validate shards": Curve(
        "sidecars of shards read and checked against their schema", ("shard_records",), run_validate_shards
    ),
    "reader table": Curve(
        "stage corpus: segments by a manifest of NeMo", ("table",), lambda folder, n: run_reader("table", folder, n)
    ),
    "reader webdataset": Curve(
        "stage corpus: tars of WebDataset",
        ("webdataset",),
        lambda folder, n: run_reader("webdataset", folder, n),
        100_000,
    ),
    "reader parquet": Curve(
        "stage corpus: parquet files", ("parquet",), lambda folder, n: run_reader("parquet", folder, n)
    ),
    "manifest": Curve("stage manifest: every medium opened, decoded, hashed", ("corpus",), run_manifest),
    "split": Curve("stage split: units, sides, and what S2 asks", ("manifest",), run_split),
    "shards": Curve("stage shards with a codec that costs nothing", ("manifest", "token_space", "split"), run_shards),
    "examples": Curve(
        "stage examples: captions tokenised, records chosen, four tasks",
        ("manifest", "token_space", "split", "shards"),
        run_examples,
    ),
    "shard_audit": Curve(
        "stage shard_audit: every id and record, a sample encoded and decoded",
        ("manifest", "token_space", "split", "shards"),
        run_audit,
    ),
    "golden": Curve(
        "stage golden: 64 and 256 items per task, chosen of an eighth of the records",
        ("manifest", "token_space", "split", "shards", "examples"),
        run_golden,
    ),
    "import": Curve(
        "an import's split, shards and shard_audit, from sequences", ("token_space", "sequences"), run_import
    ),
    "reading": Curve(
        "5,000 training examples drawn from all of them",
        ("manifest", "token_space", "split", "shards", "examples"),
        run_reading,
    ),
    "long records": Curve("a thousand records of n / 10 tokens each, all read", ("long",), run_long),
    "nothing to do, records": Curve(
        "doit with nothing to do, records in files of 50,000",
        ("build records",),
        lambda folder, n: _doit(folder, "records"),
    ),
    "verify": Curve(
        "doit verify, records in files of 50,000",
        ("build records",),
        lambda folder, n: _doit(folder, "records", "verify"),
    ),
    "verify --deep": Curve(
        "doit verify --deep, records in files of 50,000",
        ("build records",),
        lambda folder, n: _doit(folder, "records", "verify", "--deep"),
    ),
    "nothing to do, files": Curve(
        "doit with nothing to do, a file a record",
        ("build files",),
        lambda folder, n: _doit(folder, "files"),
        100_000,
    ),
}
MADE: dict[str, Callable[[Path, int], Any]] = {
    "corpus": inputs.make_corpus,
    "table": inputs.make_table,
    "webdataset": inputs.make_webdataset,
    "parquet": inputs.make_parquet,
    "manifest": inputs.make_manifest,
    "shard_records": inputs.make_shard_records,
    "long": inputs.make_long_shards,
    "sequences": inputs.make_sequences,
    "token_space": inputs.make_token_space,
    "split": run_split,
    "shards": run_shards,
    "examples": run_examples,
    "build records": build_records,
    "build files": build_files,
}


def measure(name: str, folder: Path, n: int) -> dict[str, Any]:
    """Measure one point in this process. Seconds and memory that the curve itself reports come first."""
    start, worked = time.perf_counter(), time.process_time()
    found = CURVES[name].run(folder, n) or {}
    seen = {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - worked,
        "peak_mib": status("VmHWM") / 2**20,
    }
    return {"curve": name, "records": n, **seen, **found}


def _in_a_process(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "mmpt.bench.scale", *words], check=True)


def point(name: str, folder: Path, n: int) -> dict[str, Any]:
    """A point that was kept, or a new one; what it needs is made first, once per folder."""
    here = folder / str(n)
    kept = folder / "points" / f"{name.replace(' ', '_')}-{n}.json"
    if kept.is_file():
        return read_json(kept)
    for need in CURVES[name].needs:
        mark = here / f"{need.replace(' ', '_')}.made"
        if not mark.exists():
            here.mkdir(parents=True, exist_ok=True)
            _in_a_process("--make", need, "--records", str(n), "--folder", str(folder))
            mark.touch()
    _in_a_process("--measure", name, "--records", str(n), "--folder", str(folder))
    if name in MADE:
        (here / f"{name}.made").touch()
    return read_json(kept)


def _act(given: argparse.Namespace, folder: Path) -> bool:
    """What the processes of points do; False for the process that starts them."""
    n = given.records[0]
    if given.make:
        MADE[given.make](folder / str(n), n)
    elif given.measure:
        found = measure(given.measure, folder / str(n), n)
        write_json(folder / "points" / f"{given.measure.replace(' ', '_')}-{n}.json", found)
    return bool(given.make or given.measure)


def line(one: dict[str, Any]) -> str:
    """A point as a line of text."""
    peer = one.get("jsonschema_us_a_record")
    beside = f"   jsonschema alone {peer:.0f} us per record" if peer else ""
    a_record = one["seconds"] / one["records"] * 1e6
    return (
        f"{one['curve']:<24}{one['records']:>10,}{one['seconds']:>10.2f} s{one['processor_seconds']:>10.2f} s"
        f"{a_record:>10.1f} us per record{one['peak_mib']:>9.0f} MiB{beside}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the points that are missing, print them, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--only", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mmpt-scale")
    parser.add_argument("--make", choices=list(MADE), help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=list(CURVES), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    folder = given.folder.resolve()
    if _act(given, folder):
        return
    points = []
    for name in given.only:
        for n in sorted(given.records):
            if n <= CURVES[name].most:
                points.append(point(name, folder, n))
                print(line(points[-1]), flush=True)
    from mmpt.bench import record  # with torch, which no point loads

    found = {
        "cores": os.cpu_count(),
        "points": points,
        "says": {name: one.says for name, one in CURVES.items()},
    }
    print(record.write("scale", "cpu", found))


if __name__ == "__main__":
    main()
