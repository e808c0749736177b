"""Stage token_space: the tokenizer, the texts it and the base model see, and which id means what.

Reads profile keys token_space, text, base, codecs.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.shards.text_set import read_lines
from mmpt.shards.tokenizer_file import check_tokenizer, open_tokenizer_file
from mmpt.store.canonical import read_json, write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.numbers import Labels
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITIES
from mmpt.tokens.space import TokenSpace, build_token_space, load
from mmpt.tokens.stream import SERIALIZATIONS

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_AUDIO = ("name", "identity", "n_codebooks", "codebook_size", "sample_rate", "channels", "frame_rate")
_IMAGE = ("name", "identity", "codebook_size", "tokens_per_image", "grid", "proc_size", "decode_size")


def write_token_space(ctx: StageContext, expected: str | None = None) -> None:
    """Writes tokenizer/, token_space.json, token_space.sha256, text_train.txt, text_heldout.txt,
    text_sources.json.

    expected: a token_space.json to take over, as profile key token_space.expected names one.
    """
    base = ctx.profile["base"]
    train, _heldout = _texts(ctx, captions=base["kind"] == "tiny")
    folder = ctx.out / "tokenizer"
    if base["kind"] == "tiny":
        train_tokenizer(train, ctx.profile.get("text.vocab_size", 512), folder)
    else:
        copy_tokenizer(base["path"], folder, base.get("gguf_file"))
    n_ids = vocabulary_size(folder)
    identity = {"identity": sha256_file(folder / "tokenizer.json"), "vocab_size": n_ids}
    codecs = {m: _codec(ctx.inputs["codecs"] / m) for m in MODALITIES}
    expected = expected or ctx.profile.get("token_space.expected")
    space = build_token_space(
        base_text_model="tiny" if base["kind"] == "tiny" else _name(base["path"]),
        text_vocab_size=n_ids,
        n_special=ctx.profile["token_space.n_special"],
        image_tokenizer=codecs["image"],
        audio_codec=codecs["audio"],
        text_tokenizer=identity,
    )
    if expected:
        space = _agreeing(load(Path(expected)), space, expected)
    check_tokenizer(folder / "tokenizer.json", space)
    space.save(ctx.out)
    ctx.log(f"{space.vocab_size_total} ids, {space.n_new} of them new; digest {space.digest}")


def train_tokenizer(lines: Sequence[str], vocab_size: int, folder: Path) -> None:
    """A byte-level BPE of at most `vocab_size` ids, saved so that AutoTokenizer loads it. The same lines, the
    same bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(lines, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000,
        },
    )


def copy_tokenizer(name_or_path: str, folder: Path, gguf_file: str | None = None) -> None:
    """The tokenizer files of a local model folder or a hub id; or the tokenizer inside its `gguf_file`.

    Raises:
        UserError: there's no tokenizer.json, or the GGUF file cannot be read.
    """
    source = Path(name_or_path)
    if not source.is_dir():
        source = _download(name_or_path, [gguf_file] if gguf_file else list(TOKENIZER_FILES))
    if gguf_file:
        _unpack_tokenizer(source, gguf_file, folder)
        return
    if not (source / "tokenizer.json").is_file():
        raise UserError(
            "the base model has no fast tokenizer",
            where=f"base.path: {name_or_path}",
            found=", ".join(sorted(f.name for f in source.iterdir())[:8]),
            expected="tokenizer.json",
            fix="save it there with AutoTokenizer.from_pretrained(..).save_pretrained(..)",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _unpack_tokenizer(source: Path, gguf_file: str, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file, trust_remote_code=False)
    except Exception as error:  # whatever gguf and transformers raise on a damaged file
        raise UserError(
            "cannot read the tokenizer of this GGUF file",
            where=f"base.gguf_file: {gguf_file}",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0],
            fix="pip install gguf, if it is missing",
        ) from None
    tokenizer.save_pretrained(folder)


def vocabulary_size(folder: Path) -> int:
    """Ids 0..n-1 that the tokenizer can give, added tokens included."""
    return max(open_tokenizer_file(folder / "tokenizer.json").get_vocab(with_added_tokens=True).values()) + 1


def _texts(ctx: StageContext, captions: bool) -> tuple[list[str], list[str]]:
    """(train, held out): lines of plain text, written to the stage's folder. No line is in both.

    Train text is `text.replay_file` or `text.train_sentences` generated ones, and for a base that is trained
    here also the captions of the train split. Held-out text is `text.heldout_file`, whose lines train then
    does without, or `text.heldout_sentences` generated ones that train doesn't have.
    """
    records = _train_records(ctx) if captions else []
    plain = _file(ctx, "text.replay_file")
    if plain is None:
        plain = _sentences(2 * ctx.seed, ctx.profile.get("text.train_sentences", 0))
    heldout = _file(ctx, "text.heldout_file")
    if heldout is None:
        seen = {*plain, *(record["caption"] for record in records)}
        heldout = _unseen(2 * ctx.seed + 1, ctx.profile.get("text.heldout_sentences", 0), seen)
    kept_out = set(heldout)
    plain = [line for line in plain if line not in kept_out]
    records = [record for record in records if record["caption"] not in kept_out]
    train = plain + [record["caption"] for record in records]
    order = np.random.default_rng([ctx.seed, 11]).permutation(len(train))
    train = [train[i] for i in order]
    for name, lines in (("text_train.txt", train), ("text_heldout.txt", heldout)):
        (ctx.out / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
    write_json(
        ctx.out / "text_sources.json",
        {"sentences": len(plain), "captions": [record["id"] for record in records], "heldout": len(heldout)},
    )
    ctx.log(f"text: {len(train)} lines, {len(heldout)} held out")
    return train, heldout


def _file(ctx: StageContext, key: str) -> list[str] | None:
    path = ctx.profile.get(key)
    if not path:
        return None
    if not Path(path).is_file():
        raise UserError("no such text file", where=key, found=path, expected="a UTF-8 text file")
    return read_lines(Path(path), where=f"{key}: {Path(path).name}")


def _sentences(seed: int, n: int) -> list[str]:
    from mmpt.corpus.text import generate_sentences

    return generate_sentences(seed, n) if n else []


def _unseen(seed: int, n: int, seen: set[str]) -> list[str]:
    """Up to `n` different sentences that are not in `seen`; the generator repeats itself, so up to 16 n are
    drawn.
    """
    drawn = n
    while True:
        found = [line for line in dict.fromkeys(_sentences(seed, drawn)) if line not in seen][:n]
        if len(found) == n or drawn >= 16 * n:
            return found
        drawn *= 2


def _train_records(ctx: StageContext) -> list[Mapping[str, Any]]:
    """Id and caption of each."""
    sides = Labels((row["id"], row["split"]) for row in iter_jsonl(ctx.inputs["split"] / "split.jsonl"))
    records = iter_jsonl(ctx.inputs["manifest"] / "manifest.jsonl")
    return [{"id": r["id"], "caption": r["caption"]} for r in records if sides.get(r["id"]) == "train"]


def _codec(folder: Path) -> dict[str, Any] | None:
    """A codec's part of token_space.json: what it is, not where."""
    if not (folder / "codec.json").is_file():
        return None
    about = read_json(folder / "codec.json")
    if about["kind"] == "image":
        return {key: about[key] for key in _IMAGE}
    order = {"serialization": SERIALIZATIONS[about.get("order", "frame")]}
    rows = {"row_codebooks": about["row_codebooks"]} if "row_codebooks" in about else {}
    return {**{key: about[key] for key in _AUDIO}, **order, **rows}


def _agreeing(given: TokenSpace, ours: TokenSpace, where: str) -> TokenSpace:
    """The token space that the profile names, if it has room for exactly this tokenizer and these codecs."""
    for name, r in {**ours.ranges, **given.ranges}.items():
        sizes = [space.ranges[name].size if name in space.ranges else 0 for space in (given, ours)]
        if name != "SPECIAL" and sizes[0] != sizes[1]:
            raise UserError(
                f"segment {r.name} doesn't fit this run",
                where=f"token_space.expected: {where}",
                found=f"{sizes[0]} ids",
                expected=f"{sizes[1]} ids, by the run's tokenizer and codecs",
                fix="use the tokenizer and codecs that it was made for",
            )
    if given.stream != ours.stream:
        raise UserError(
            "the codes of a sound are in another order",
            where=f"token_space.expected: {where}",
            found=f"{given.stream.order}, codebooks {list(given.stream.rows)}",
            expected=f"{ours.stream.order}, codebooks {list(ours.stream.rows)}",
            fix="set codecs.audio.order as it is there",
        )
    return given


def _name(path: str) -> str:
    return Path(path).name if Path(path).is_dir() else path


def _download(hub_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            "the base model is neither a local folder nor reachable on the hub",
            where="base.path",
            found=hub_id,
            expected="a folder with config.json, weights and tokenizer.json, or a hub id",
            fix=f"download it there first ({type(error).__name__})",
        ) from error
