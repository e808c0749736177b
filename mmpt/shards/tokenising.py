"""The shards of a run and the codecs that encode them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from mmpt.codecs import registry
from mmpt.shards.earlier import Earlier
from mmpt.shards.encode import AudioEncoder, Encoder, ImageEncoder
from mmpt.shards.lines import Lines
from mmpt.shards.tokenise import Shard, done, plan, tokenise
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITIES
from mmpt.tokens.space import TokenSpace, load

EARLIER = "earlier.json"  # in the work folder of stage shards


class Tokenising:
    """The shards of a run and what encodes them. The codecs are opened once, when something is to be encoded.

    Called with a shard's name it writes that shard.
    """

    def __init__(self, ctx: StageContext):
        self.ctx, self.space = ctx, load(ctx.inputs["token_space"])
        records = Lines.open([ctx.inputs["manifest"] / "manifest.jsonl"])
        modalities = [modality for modality in MODALITIES if has_codec(ctx, modality)]
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
        return open_encoders(self.ctx, self.space)

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


def has_codec(ctx: StageContext, modality: str) -> bool:
    return (ctx.inputs["codecs"] / modality / registry.FILE_NAME).is_file()


def open_encoders(ctx: StageContext, space: TokenSpace) -> dict[str, Encoder]:
    """The run's codecs by modality, each the one that the token space was built for."""
    roots = {"corpus": ctx.inputs["corpus"], **ctx.external}
    encoders: dict[str, Encoder] = {}
    for modality, described in (("audio", space.audio_codec), ("image", space.image_tokenizer)):
        folder = ctx.inputs["codecs"] / modality
        if not has_codec(ctx, modality):
            continue
        about = read_json(folder / registry.FILE_NAME)
        # A token space of the upstream format describes its codecs without an identity.
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
