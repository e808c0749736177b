"""Every stage, declared once as data. The body of stage NAME is function NAME of mmpt/stages/NAME.py; reading
the table imports none.

A stage reads only its `slice` of the profile (a key outside it raises KeyError in the body), its `inputs` and
`external` files, and writes only its `outputs`. To let a body read one more key, add it to the slice:
the stage is then stale where that key changes, and nowhere else.
"""

from __future__ import annotations

from mmpt.build.declaration import Hook, Output, Stage, by_name

__all__ = ["BEFORE_RELEASE", "STAGES", "by_name"]

SAVES = 60.0  # seconds for a step and a checkpoint of some GB
MEDIA = ("corpus.sources",)
WEIGHTS = ("base.path",)
CODEC_WEIGHTS = ("codecs.audio.path", "codecs.image.path")  # those in `options` too: Profile.codec_files
JUDGES = ("evaluate.scores.clip.path", "evaluate.scores.clap.path")
BEFORE_TRAIN = ("W1", "A1", "A2", "A3", "A4", "K1", "S3")
AFTER_TRAIN = ("B1", "B2", "B3", "B4", "C1", "C2", "C3", "C4", "L1", "E1", "R1", "X1", "Q1", "Q2", "T1")
BEFORE_RELEASE = ("S1", "S2", *BEFORE_TRAIN, *AFTER_TRAIN)
# What warm-up and stage 4 share. Their lengths are apart, so that more steps do not warm up again.
STEP = (
    "train.row_len",
    "train.layer_norm",
    "train.micro_rows",
    "train.activation_checkpointing",
    "train.compile",
    "train.warmup_steps",
    "train.min_lr_ratio",
    "train.weight_decay",
    "train.betas",
    "train.clip",
    "train.loss",
    "train.log_every",
)
WARMUP = (
    *("warmup", "lora", "mixture.weights", "mixture.text_replay", "mixture.prompt_dropout", "examples.max_seq_len"),
    *STEP,
)
TRAIN = ("train", "lora", "mixture", "examples.max_seq_len")
DATA = ("corpus", "manifest", "split", "codecs", "token_space", "shards")
MEASURED = (
    *("trend", "generate", "ablation", "text_regression", "read_regression", "staged_export", "resume_check", "scores"),
)

STAGES: tuple[Stage, ...] = (
    Stage(
        "extension",
        "csrc, compiled for this machine",
        slice=("ops",),
        outputs=(Output("extension.json", "extension"), Output("mmpt_kernels.so", optional=True)),
        torch=True,
        tools=("c++", "nvcc"),
        compiled=True,
        early="mmpt.build.early:check_cache",
    ),
    Stage(
        "kernels",
        "the operations against their float64 reference",
        inputs=("extension",),
        slice=("ops",),
        outputs=(Output("kernels.json", "kernels"),),
        measures=("K1",),
        torch=True,
    ),
    Stage(
        "corpus",
        "read the sources into one list of records",
        work="records",
        slice=("corpus", "split"),
        external=MEDIA,
        media=True,
        outputs=(Output("records.jsonl", "record"), Output("errors.jsonl", "error")),
    ),
    Stage(
        "manifest",
        "open and hash every medium",
        work="records",
        inputs=("corpus",),
        slice=("corpus.sources", "corpus.on_bad_record", "codecs.audio.name", "codecs.image.name"),
        external=MEDIA,
        outputs=(
            Output("manifest.jsonl", "manifest_record"),
            Output("fingerprints.safetensors"),
            Output("errors.jsonl", "error"),
        ),
        measures=("S1",),
    ),
    Stage(
        "split",
        "train, val and test without a shared recording or picture",
        work="records",
        inputs=("manifest",),
        slice=("split",),
        needs=("S1",),
        outputs=(Output("split.jsonl", "split_record"),),
        measures=("S2",),
    ),
    Stage(
        "codecs",
        "fit or load the audio and the image codec",
        work="fitted",
        inputs=("corpus", "manifest", "split"),
        slice=("codecs",),
        external=MEDIA + CODEC_WEIGHTS,
        needs=("S2",),
        outputs=(
            Output("*/codec.json", "codec"),
            Output("*/contract.json", "codec_contract"),
            Output("*/fitted_on.jsonl", "fitted_on"),
        ),
    ),
    Stage(
        "token_space",
        "tokenizer, and which id means what",
        inputs=("manifest", "split", "codecs"),
        slice=("token_space", "text", "base"),
        external=(*WEIGHTS, "text.replay_file", "text.heldout_file", "token_space.expected"),
        early="mmpt.build.early:check_tokenizer",
        outputs=(
            Output("token_space.json", "token_space"),
            Output("token_space.sha256"),
            Output("text_sources.json", "text_sources", optional=True),
            Output("tokenizer/*"),
        ),
    ),
    Stage(
        "shards",
        "every medium as tokens",
        work="records",
        inputs=DATA[:-1],
        slice=("shards",),
        external=MEDIA + CODEC_WEIGHTS,
        reuses=True,
        outputs=(
            Output("*.safetensors"),
            Output("*-*-*.jsonl", "shard_record"),
            Output("errors.jsonl", "error"),
            Output("stats.json", "shard_stats"),
        ),
    ),
    Stage(
        "shard_audit",
        "re-encode, decode and compare a sample of the shards",
        inputs=DATA,
        slice=("shards.batch",),
        external=MEDIA + CODEC_WEIGHTS,
        outputs=(Output("audit.json", "audit"),),
        measures=("S3",),
    ),
    Stage(
        "base",
        "the text model that everything starts from",
        work="base.pretrain.steps*base.pretrain.tokens_per_step",
        inputs=(
            "extension",
            "token_space",
        ),
        slice=("base",),
        external=WEIGHTS,
        needs=("S3", "K1"),
        outputs=(Output("model/config.json"), Output("model/*.safetensors"), Output("base.json", "base")),
        torch=True,
    ),
    Stage(
        "examples",
        "prompt, target and label mask of the four tasks",
        work="records",
        inputs=("shards", "token_space", "split"),
        slice=("examples",),
        needs=("S3",),
        outputs=(Output("*.safetensors"), Output("drops.json", "drops")),
    ),
    Stage(
        "golden",
        "fixed test items, and their prompts swapped",
        inputs=("examples", "shards", "token_space"),
        slice=("golden",),
        outputs=(
            Output("golden_*_*.jsonl", "golden_record"),
            Output("ablation_*.jsonl", "ablation_record"),
            Output("golden.json", "golden_stats"),
        ),
    ),
    Stage(
        "warmup",
        "new rows, on the read tasks",
        work="warmup.steps*warmup.tokens_per_step",
        ends_within=SAVES,
        inputs=("extension", "base", "examples", "shards", "token_space", "codecs"),
        slice=WARMUP,
        needs=("S3", "K1"),
        outputs=(Output("checkpoint/*"), Output("metrics.jsonl", "metric_row"), Output("draws.jsonl", "draw")),
        torch=True,
    ),
    Stage(
        "warmup_check",
        "does the model read what it is shown",
        work="items",
        inputs=("extension", "base", "warmup", "golden", "examples", "shards", "token_space", "split"),
        slice=("evaluate.bootstrap",),
        outputs=(Output("read_gap.json", "read_gap"),),
        measures=("W1",),
        torch=True,
    ),
    Stage(
        "preflight",
        "ids, trainable rows, sequences and decoding before the long run",
        inputs=("extension", "base", "warmup", "examples", "shards", "golden", "token_space", "codecs", "split"),
        slice=TRAIN,
        external=CODEC_WEIGHTS,
        outputs=(Output("preflight.json", "preflight"), Output("decode/*", optional=True)),
        measures=("A1", "A2", "A3", "A4"),
        torch=True,
    ),
    Stage(
        "train",
        "stage 4: read and emit, rows and LoRA",
        work="train.steps*train.tokens_per_step",
        ends_within=SAVES,
        inputs=("extension", "base", "warmup", "examples", "shards", "token_space", "split"),
        slice=TRAIN,
        needs=BEFORE_TRAIN,
        measures=("B1", "B2"),
        torch=True,
        on_save=Hook("mmpt.evaluate.trend:at_save", "trend"),
        outputs=(
            Output("checkpoints/step_*/*"),
            Output("checkpoints.json", "checkpoints"),
            Output("metrics.jsonl", "metric_row"),
            Output("draws.jsonl", "draw"),
            Output("drops.json", "drops"),
        ),
    ),
    Stage(
        "trend",
        "small golden sets at every saved step",
        work="train.steps/train.save_every",
        inputs=("extension", "train", "base", "golden", "codecs", "token_space", "examples", "shards"),
        slice=("generate", "evaluate.trend"),
        external=CODEC_WEIGHTS,
        outputs=(Output("trend.jsonl", "trend_row"), Output("qual/step_*/step_*_golden_*.jsonl", "golden_output")),
        torch=True,
    ),
    Stage(
        "generate",
        "golden sets at step 0 and at the end, decoded to files",
        work="items",
        inputs=("extension", "corpus", "train", "base", "golden", "codecs", "token_space", "examples", "shards"),
        slice=("generate", "codecs.audio.clip_seconds", "evaluate.bootstrap"),
        external=MEDIA + CODEC_WEIGHTS,
        outputs=(
            Output("qual/step_*/prompt_ablation.json", "prompt_ablation"),
            Output("qual/step_*/ablation_losses.jsonl", "ablation_loss"),
            Output("qual/step_*/**/step_*_golden_*.jsonl", "golden_output"),
            Output("qual/step_*/golden_summary.json", "golden_summary"),
            Output("qual/step_*/scored_outputs.jsonl", "scored_output"),
            Output("qual/random_weights.json", "random_weights"),
            Output("qual/step_*/learned_end/step_*_learned_end_t2a.jsonl", "learned_end_output", optional=True),
        ),
        measures=("B4", "C1", "E1"),
        torch=True,
    ),
    Stage(
        "ablation",
        "the right prompt against a swapped and an empty one",
        work="items",
        inputs=("extension", "train", "base", "golden", "token_space", "examples", "shards", "generate"),
        slice=("evaluate.bootstrap",),
        outputs=(Output("alignment.json", "alignment"),),
        measures=("B3", "C2", "L1"),
        torch=True,
    ),
    Stage(
        "text_regression",
        "is the text model still the text model",
        work="evaluate.text_tokens",
        inputs=("extension", "train", "base", "token_space", "shards"),
        slice=("evaluate.text_tokens", "evaluate.bootstrap"),
        outputs=(Output("text_regression.json", "text_regression"),),
        measures=("C3",),
        torch=True,
    ),
    Stage(
        "read_regression",
        "does it still read after learning to emit",
        work="items",
        inputs=("extension", "train", "warmup", "base", "golden", "token_space", "examples", "shards", "generate"),
        slice=("evaluate.bootstrap",),
        outputs=(Output("read_regression.json", "read_gap"),),
        measures=("R1",),
        torch=True,
    ),
    Stage(
        "staged_export",
        "the folder to hand out, and does it give the run's ids",
        work="items",
        inputs=("extension", "train", "base", "golden", "codecs", "token_space", "generate"),
        slice=("generate", "export", "codecs.audio.clip_seconds"),
        external=CODEC_WEIGHTS,
        outputs=(
            Output("export/config.json"),
            Output("export/*.safetensors"),
            Output("export/adapter/*"),
            Output("export.json", "staged_export"),
        ),
        measures=("X1",),
        torch=True,
    ),
    Stage(
        "resume_check",
        "N+M steps against N, save, load, M",
        work="train.tokens_per_step",
        inputs=("extension", "base", "warmup", "examples", "shards", "token_space"),
        slice=(*TRAIN, *WARMUP, "evaluate.resume"),
        outputs=(Output("resume_check.json", "resume_check"),),
        measures=("C4",),
        torch=True,
    ),
    Stage(
        "scores",
        "attributes read back from files, free-running quality",
        work="items",
        inputs=("extension", *DATA, "base", "examples", "golden", "train", "generate"),
        slice=("generate", "evaluate.bootstrap", "evaluate.scores"),
        external=MEDIA + CODEC_WEIGHTS + JUDGES,
        outputs=(Output("scores.json", "scores"),),
        measures=("Q1", "Q2", "T1"),
        torch=True,
    ),
    Stage(
        "render",
        "what the report shows: numbers, pictures, sounds",
        work="records",
        inputs=(
            *DATA,
            *("shard_audit", "kernels", "base", "examples", "golden", "warmup", "warmup_check", "preflight"),
            *("train", *MEASURED),
        ),
        external=MEDIA,
        outputs=(Output("report_data.json", "report_data"),),
        reported=True,
    ),
    Stage(
        "release",
        "the adapter, behind every gate",
        inputs=(
            *("train", "token_space", "base", "generate", "ablation", "text_regression", "read_regression"),
            *("staged_export", "scores"),
        ),
        needs=BEFORE_RELEASE,
        slice=("name",),
        granted=True,
        outputs=(
            Output("adapter/adapter_config.json"),
            Output("adapter/*.safetensors"),
            Output("token_space.json", "token_space"),
            Output("token_space.sha256"),
            Output("RELEASE.json", "release"),
        ),
    ),
)
