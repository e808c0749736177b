"""Stage shard_audit: re-encode, decode and compare a sample of the shards, for gate S3. Profile keys it reads:
shards.batch.
"""

from __future__ import annotations

from mmpt.shards.audit import Findings, audit_modality, write_findings
from mmpt.shards.tokenising import open_encoders
from mmpt.shards.train_only import train_only
from mmpt.store.canonical import digest_json
from mmpt.store.jsonl import JsonLines, iter_jsonl
from mmpt.store.numbers import Labels
from mmpt.store.stage import StageContext
from mmpt.tokens.space import load


def shard_audit(ctx: StageContext) -> None:
    """Measures the shards for gate S3: audit.json, evidence/S3."""
    space = load(ctx.inputs["token_space"])
    records = JsonLines(ctx.inputs["manifest"] / "manifest.jsonl")
    sides = Labels((row["id"], row["split"]) for row in iter_jsonl(ctx.inputs["split"] / "split.jsonl"))
    found: dict[str, Findings] = {}
    contents = []
    for modality, encoder in open_encoders(ctx, space).items():
        ids = (record["id"] for record in records if record["modality"] == modality)
        expected = Labels((one, side) for one in ids if (side := sides.get(one)))
        found[modality], sets = audit_modality(ctx, encoder, space, expected)
        one = found[modality]
        contents += [shards.identity for shards in sets]
        ctx.log(
            f"{modality}: {one.records} records, {one.reencode_mismatches} of {one.reencode_tokens} "
            f"tokens differ when encoded again, {one.decode_errors} of {one.decoded} decodes wrong"
        )
    subject = {"shards": digest_json(contents), "token_space": space.digest}
    write_findings(ctx, found, train_only(ctx, found, records, sides), subject)
