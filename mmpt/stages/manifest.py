"""Stage manifest: open and hash every medium, for gate S1. Profile keys it reads: corpus.sources, corpus.on_bad_record,
codecs.audio.name, codecs.image.name.
"""

from __future__ import annotations

from itertools import islice

from mmpt.corpus.fingerprints import Fingerprints
from mmpt.corpus.manifest import measure_all, s1_metrics
from mmpt.corpus.problems import SHOWN, Problem, refuse
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import write_evidence
from mmpt.store.jsonl import JsonLines, count_lines, jsonl_writer
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITIES


def manifest(ctx: StageContext) -> None:
    """Opens every medium: manifest.jsonl, fingerprints.safetensors, errors.jsonl (all so far), evidence/S1.

    Records pass through; of each its fingerprint is held, 145 or 192 bytes.
    """
    folder = ctx.inputs["corpus"]
    total = count_lines(folder / "records.jsonl")
    results = measure_all(
        JsonLines(folder / "records.jsonl"),
        {"corpus": ctx.inputs["corpus"], **ctx.external},
        ctx.threads,
        lambda done: ctx.progress(done, total, "media"),
    )
    path, errors = ctx.out / "manifest.jsonl", ctx.out / "errors.jsonl"
    first, n_good, n_bad = [], 0, 0
    fingerprints = Fingerprints()
    with jsonl_writer(path) as write, jsonl_writer(errors) as write_error:
        for row in JsonLines(folder / "errors.jsonl"):
            write_error(row)
        for result in results:
            if isinstance(result, Problem):
                n_bad += 1
                first += [result] if n_bad <= SHOWN else []
                write_error(result.to_json())
            else:
                n_good += 1
                fingerprints.add(result["modality"], result.pop("fingerprint"))
                write(result)
        if ctx.profile["corpus.on_bad_record"] == "fail":
            refuse(first, total=n_bad)
    fingerprints.save(ctx.out)
    wanted = [m for m in MODALITIES if ctx.profile.get(f"codecs.{m}.name")]
    write_evidence(
        ctx.out,
        "S1",
        s1_metrics(JsonLines(path), JsonLines(errors), wanted, ctx.profile["corpus.sources"]),
        subject={"manifest": sha256_file(path)},
        samples=[{"id": p["id"], "where": p["where"], "kind": p["kind"]} for p in islice(JsonLines(errors), 20)],
    )
    ctx.log(f"{n_good} media read, {n_bad} unusable")
