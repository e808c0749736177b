"""Stages token_space, shards, shard_audit, examples and golden. Profile keys they read:

token_space  token_space, text, base, codecs
shards       shards
shard_audit  shards.batch
examples     examples
golden       golden
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mmpt.codecs import registry
from mmpt.codecs.contract import read_contract
from mmpt.shards.audit import Findings, audit, failed_ids, write_findings
from mmpt.shards.earlier import Earlier
from mmpt.shards.encode import AudioEncoder, Encoder, ImageEncoder
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.examples import build_examples
from mmpt.shards.golden import (
    ablation_row,
    condition_ids,
    distinct_media,
    golden_items,
    golden_row,
    origin_stratum,
    swaps,
)
from mmpt.shards.golden_files import golden_file
from mmpt.shards.lines import Lines
from mmpt.shards.shard_set import MODALITIES, SPLITS, ShardSet
from mmpt.shards.token_space import token_space  # noqa: F401  (a stage of this package, in a file of its own)
from mmpt.shards.tokenise import Shard, done, gather, plan, tokenise
from mmpt.shards.train_only import train_only
from mmpt.store.canonical import digest_json, read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import JsonLines, iter_jsonl, write_jsonl
from mmpt.store.numbers import Labels
from mmpt.store.shares import share
from mmpt.store.stage import StageContext
from mmpt.tokens.formats import TASKS
from mmpt.tokens.space import TokenSpace, load

EARLIER = "earlier.json"  # in the work folder of stage shards


def shards(ctx: StageContext) -> None:
    """Encodes every record of the split: shards, errors.jsonl, stats.json. Resumes from ``ctx.work``.

    Media that shards in ``ctx.earlier`` hold are taken from there.
    """
    write_json(ctx.work / EARLIER, [str(folder) for folder in ctx.earlier])
    ctx.spread(shards_part, each=Tokenising)
    work = Tokenising(ctx)
    work.write(work.shards)
    gather(ctx, work.shards, work.space)


def shards_part(ctx: StageContext, rank: int, world: int) -> None:
    """Worker ``rank`` of ``world`` writes its share of the shards into ``ctx.work``."""
    work = Tokenising(ctx)
    work.write([work.shards[place] for place in share(work.sizes(), rank, world)])


class Tokenising:
    """The shards of a run and what encodes them. The codecs are opened once, when something is to be encoded.

    Called with a shard's name it writes that shard.
    """

    def __init__(self, ctx: StageContext):
        self.ctx, self.space = ctx, load(ctx.inputs["token_space"])
        records = Lines.open([ctx.inputs["manifest"] / "manifest.jsonl"])
        modalities = [modality for modality in MODALITIES if _has_codec(ctx, modality)]
        if len(modalities) < len(MODALITIES):
            left_out = sum(record["modality"] not in modalities for record in records)
            ctx.log(f"{left_out} records are of a modality without a codec and left out")
        sides = iter_jsonl(ctx.inputs["split"] / "split.jsonl")
        self.shards = plan(records, sides, ctx.profile["shards.records_per_shard"], modalities)

    @staticmethod
    def pieces(ctx: StageContext) -> list[str]:
        """Names of all shards."""
        return [shard.name for shard in Tokenising(ctx).shards]

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        return _encoders(self.ctx, self.space)

    @cached_property
    def earlier(self) -> dict[str, Earlier]:
        """Media that were tokenised before; the folders are in the work folder, where each worker finds them."""
        folders = [Path(one) for one in read_json(self.ctx.work / EARLIER)]
        return {modality: Earlier(folders, encoder) for modality, encoder in self.encoders.items()}

    def sizes(self) -> list[tuple[str, float]]:
        """(modality, records) of each shard."""
        return [(shard.modality, len(shard.records)) for shard in self.shards]

    def write(self, shards: Sequence[Shard]) -> None:
        """Those of ``shards`` that are not there yet."""
        missing = [shard for shard in shards if not done(self.ctx.work, shard)]
        encoders, earlier = (self.encoders, self.earlier) if missing else ({}, {})
        tokenise(self.ctx, shards, encoders, self.space, self.ctx.profile["shards.batch"], earlier)

    def __call__(self, name: str) -> None:
        self.write([shard for shard in self.shards if shard.name == name])


def shard_audit(ctx: StageContext) -> None:
    """Measures the shards for gate S3: audit.json, evidence/S3."""
    space, folder = load(ctx.inputs["token_space"]), ctx.inputs["shards"]
    records = JsonLines(ctx.inputs["manifest"] / "manifest.jsonl")
    sides = Labels((row["id"], row["split"]) for row in iter_jsonl(ctx.inputs["split"] / "split.jsonl"))
    found: dict[str, Findings] = {}
    contents = []
    for modality, encoder in _encoders(ctx, space).items():
        sets = [ShardSet.open(folder, modality, split) for split in SPLITS]
        ids = (record["id"] for record in records if record["modality"] == modality)
        expected = Labels((one, side) for one in ids if (side := sides.get(one)))
        found[modality] = one = audit(
            sets,
            encoder,
            space,
            expected=expected,
            failed=failed_ids(folder),
            seed=ctx.seed,
            batch=ctx.profile["shards.batch"],
        )
        contents += [shards.identity for shards in sets]
        one.take_contract(read_contract(ctx.inputs["codecs"] / modality))
        ctx.log(
            f"{modality}: {one.records} records, {one.reencode_mismatches} of {one.reencode_tokens} "
            f"tokens differ when encoded again, {one.decode_errors} of {one.decoded} decodes wrong"
        )
    subject = {"shards": digest_json(contents), "token_space": space.digest}
    write_findings(ctx, found, train_only(ctx, found, records, sides), subject)


def examples(ctx: StageContext) -> None:
    """Decides what each task keeps: {task}-{split}.safetensors, drops.json."""
    build_examples(ctx)


def golden(ctx: StageContext) -> None:
    """Fixes the test items: golden_{task}_{n}.jsonl, ablation_{task}.jsonl, and golden.json, the counts."""
    space = load(ctx.inputs["token_space"])
    counts = {}
    for task in TASKS:
        test = ExampleSet.open(ctx.inputs["examples"], ctx.inputs["shards"], space, task, "test")
        items = golden_items(test, ctx.profile["golden.per_task"], ctx.seed)
        swapped = swaps(test, ctx.profile["golden.ablation"], ctx.seed)
        rows = [golden_row(test, index, bucket) for index, bucket in items]
        write_jsonl(ctx.out / golden_file(task, len(rows)), rows)
        write_jsonl(ctx.out / f"ablation_{task}.jsonl", [ablation_row(test, swap) for swap in swapped])
        differences = [
            abs(len(condition_ids(test, one.index)) - len(condition_ids(test, one.donor))) for one in swapped
        ]
        counts[task] = {
            "available": len(test),
            "distinct_media": distinct_media(test.records),
            "golden": len(rows),
            "ablation": len(swapped),
            "swap_kinds": dict(Counter(one.kind for one in swapped)),
            "strata": dict(Counter(f"{row['length_bucket']} {origin_stratum(row, task)}" for row in rows)),
            "mean_length_difference": float(np.mean(differences)) if differences else None,
        }
        ctx.log(f"{task}: {len(rows)} golden, {len(swapped)} ablation items of {len(test)} test examples")
    write_json(ctx.out / "golden.json", counts)


def _has_codec(ctx: StageContext, modality: str) -> bool:
    return (ctx.inputs["codecs"] / modality / registry.FILE_NAME).is_file()


def _encoders(ctx: StageContext, space: TokenSpace) -> dict[str, Encoder]:
    """The run's codecs by modality, each the one that the token space was built for."""
    roots = {"corpus": ctx.inputs["corpus"], **ctx.external}
    encoders: dict[str, Encoder] = {}
    for modality, described in (("audio", space.audio_codec), ("image", space.image_tokenizer)):
        folder = ctx.inputs["codecs"] / modality
        if not _has_codec(ctx, modality):
            continue
        about = read_json(folder / registry.FILE_NAME)
        # A token space of the reference format describes its codecs without an identity.
        if (wanted := (described or {}).get("identity", about["identity"])) != about["identity"]:
            raise UserError(
                f"the {modality} codec is not the one of the token space",
                where="token_space.json",
                found=about["identity"],
                expected=wanted,
                fix="rebuild token_space",
            )
        if modality == "audio":
            encoders[modality] = AudioEncoder(
                registry.load_audio(folder, ctx.device), space, roots, about["clip_seconds"], about["crop"]
            )
        else:
            encoders[modality] = ImageEncoder(registry.load_image(folder, ctx.device), space, roots)
    return encoders
