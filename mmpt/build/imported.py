"""The stage table of a profile with `inputs:`: import stages in place of corpus to warmup, the rest unchanged.

    split, codecs -> token_space -> shards -> shard_audit -S3-> base, examples ..      from the run's files
    base, token_space -> warmup                                                        its Stage-3 checkpoint
    warmup -> train                                     its Stage-4 checkpoint, where the profile names one

There is no corpus and no manifest; what needs them, or media, does not apply, and the decision lists it.
"""

from __future__ import annotations

from dataclasses import replace

from mmpt.build.declaration import Output, Stage, by_name
from mmpt.build.stage_table import CODEC_WEIGHTS, MEDIA, STAGES
from mmpt.profile import Profile

LEFT_OUT = ("corpus", "manifest")
READ = ("inputs.shards", "inputs.jsonl")
TABLE = by_name(STAGES)  # what reads an import stage reads the files of the stage that it stands for

IMPORTED = by_name(
    (
        Stage(
            "split",
            "the run's own sides; held-out records become val and test",
            "mmpt.shards.imported:split",
            slice=(*READ, "inputs.split", "inputs.token_space", "split", "corpus.on_bad_record"),
            external=(*READ, "inputs.token_space"),
            outputs=(Output("split.jsonl", "split_record"), Output("errors.jsonl", "error")),
            measures=("S2",),
        ),
        Stage(
            "codecs",
            "the codecs that made the run's tokens, checked against its uti.yaml",
            "mmpt.shards.imported_codecs:codecs",
            inputs=("split",),
            slice=("codecs", "inputs.uti", "inputs.shards"),
            external=(*CODEC_WEIGHTS, "inputs.uti", "inputs.shards"),
            needs=("S2",),
            outputs=TABLE["codecs"].outputs,
        ),
        Stage(
            "token_space",
            "the run's token space, checked against its digest, tokenizer and codecs",
            "mmpt.shards.imported:token_space",
            inputs=("split", "codecs"),
            slice=("token_space", "text", "base", "inputs.token_space"),
            external=("base.path", "text.replay_file", "text.heldout_file", "inputs.token_space"),
            early=TABLE["token_space"].early,
            outputs=TABLE["token_space"].outputs,
        ),
        Stage(
            "shards",
            "the run's records as shards",
            "mmpt.shards.imported:shards",
            inputs=("split", "codecs", "token_space"),
            slice=(*READ, "corpus.on_bad_record", "shards.records_per_shard"),
            external=READ,
            outputs=TABLE["shards"].outputs,
        ),
        Stage(
            "shard_audit",
            "check every id, decode a sample",
            "mmpt.shards.imported:shard_audit",
            inputs=("split", "codecs", "token_space", "shards"),
            slice=("shards.batch",),
            outputs=TABLE["shard_audit"].outputs,
            measures=("S3",),
        ),
        Stage(
            "warmup",
            "the run's Stage-3 rows",
            "mmpt.train.imported:warmup",
            inputs=("extension", "base", "token_space"),
            slice=("inputs.stage3", "lora", "train.layer_norm"),
            external=("inputs.stage3",),
            needs=("S3", "K1"),
            outputs=(Output("checkpoint/*"),),
            torch=True,
        ),
        Stage(
            "train",
            "the run's Stage-4 rows and LoRA",
            "mmpt.train.imported:train",
            inputs=("extension", "base", "warmup", "examples", "shards", "token_space"),
            slice=("inputs.stage4", "lora", "train.layer_norm", "train.row_len", "mixture.weights"),
            external=("inputs.stage4.rows", "inputs.stage4.lora"),
            measures=("B1",),
            torch=True,
            outputs=(
                Output("checkpoints/step_*/*"),
                Output("checkpoints.json", "checkpoints"),
                Output("drops.json", "drops"),
            ),
        ),
    )
)


def table_for(stages: tuple[Stage, ...], profile: Profile) -> tuple[Stage, ...]:
    """The table of a profile: `stages`, or what is left and put in their place where it has `inputs:`."""
    inputs = profile.data.get("inputs")
    if not inputs:
        return stages
    replaced = {
        name: replace(stage, needs=by_name(stages)["train"].needs) if name == "train" else stage
        for name, stage in IMPORTED.items()
        if name != "train" or "stage4" in inputs
    }
    kept = [replaced.get(stage.name, stage) for stage in stages if stage.name not in LEFT_OUT]
    measured = {gate for stage in kept for gate in stage.measures}
    return tuple(
        replace(
            stage,
            inputs=tuple(name for name in stage.inputs if name not in LEFT_OUT),
            external=tuple(key for key in stage.external if key not in MEDIA),
            needs=tuple(gate for gate in stage.needs if gate in measured),
        )
        for stage in kept
    )
