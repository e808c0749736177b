"""Export: a folder that plain transformers, PEFT and vLLM read without this package.

    config.json, generation_config.json, model*.safetensors    base, new rows and LoRA in one
    tokenizer.json, ...          the base's tokenizer, which also knows our ids by name; in a text they are text
    adapter/                     the same as a PEFT adapter, to be used with the base
    token_space.json, .sha256    which id means what
    grammar.json, grammar_logits.py    a logits processor that keeps generation to the grammar
    codecs/, decoders.py               the built-in codecs, and what turns ids into pictures and sounds
    sample.py                          a prompt to a wav or a png, by the files above

The merged model is read back by plain transformers before anything is published, and must give our logits.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmpt.codecs import decoders
from mmpt.model import export_script, grammar_logits
from mmpt.model.adapter import CONFIG, WEIGHTS, load_adapter
from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.tokenizer_file import add_names, open_tokenizer_file
from mmpt.store.canonical import read_json, write_json
from mmpt.store.tasks import MODALITIES
from mmpt.store.tensors import read_meta
from mmpt.tokens.formats import prompt
from mmpt.tokens.space import FILE_NAME, SHA_NAME, TokenSpace

# Imported, so that an edit of them makes stage staged_export stale.
ALONE = (Path(grammar_logits.__file__), Path(decoders.__file__))
# Largest difference of logits, as a share of the largest logit. In float32 only the order of summation
# differs; a bfloat16 file also rounds the new rows and the merged weights, which are float32 here.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Lengths:
    """What the token space does not say; (least, most) tokens or frames, None: no such codec.

    audio_frames_learned_end: where the model may end a sound, for users who do not know its length.
    """

    text_tokens: tuple[int, int]
    audio_frames: tuple[int, int] | None
    image_tokens: int | None
    audio_frames_learned_end: tuple[int, int] | None = None


@dataclass(frozen=True)
class Parity:
    """How the written model, read by plain transformers, compares with ours.

    difference: largest one of a logit, relative to the largest logit. same_choice: share of positions with
    the same most probable id. positions: how many were compared.
    """

    difference: float
    same_choice: float
    positions: int


def export_model(
    folder: Path,
    *,
    base: Path,
    token_space: Path,
    space: TokenSpace,
    adapter: Path,
    codecs: Path,
    lengths: Lengths,
    probes: Sequence[np.ndarray],
    dtype: torch.dtype,
) -> Parity:
    """Write everything but the model card into `folder`, which is made.

    Args:
        base, token_space, codecs: data folders of the stages of these names. adapter: an adapter's folder.
        probes: sequences of ids, each [L], on which the written model must agree with ours.
        dtype: of the merged weights.

    Raises:
        UserError: an adapter of another base or token space; a tokenizer that cannot take our names.
        RuntimeError: the written model does not give our logits: a fault of the export.
    """
    model = _opened(base, space, adapter, dtype)
    with torch.no_grad(), model.merged():
        expected = [model.logits(model.hidden(torch.as_tensor(ids)[None].long()))[0] for ids in probes]
    folder.mkdir(parents=True)
    merged = merge(model)
    merged.save_pretrained(folder)
    del model, merged
    parity = _compare(folder, probes, expected, dtype)
    (folder / "adapter").mkdir()
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(adapter / name, folder / "adapter" / name)
    for name in (FILE_NAME, SHA_NAME):
        shutil.copyfile(token_space / name, folder / name)
    save_tokenizer(token_space / "tokenizer", folder, space)
    write_json(folder / "grammar.json", {key: value for key, value in vars(lengths).items() if value})
    save_codecs(codecs, folder / "codecs")
    for path in ALONE:
        shutil.copyfile(path, folder / path.name)
    (folder / export_script.NAME).write_text(export_script.SCRIPT)
    return parity


def _opened(base: Path, space: TokenSpace, adapter: Path, dtype: torch.dtype) -> MultimodalLM:
    lora = dict(read_meta(adapter / WEIGHTS)["lora"])
    layer_norm = lora.pop("layer_norm", False)
    model = MultimodalLM.from_base(base / "model", space, lora, seed=0, dtype=dtype, layer_norm=layer_norm)
    load_adapter(model, adapter)
    return model.eval()


def merge(model: MultimodalLM) -> nn.Module:
    """A plain causal LM over the whole token space, in the base's dtype; `model` is used up by it."""
    space, tied = model.space, model.tied
    split, rows = space.text_vocab_size, model.embedding.rows.detach()
    table = model.embedding.weight.detach()
    base_head, head_rows = (part.detach() for part in model.head())
    causal = model.lm.merge_and_unload()
    embedding = _matrix(nn.Embedding(1, 1), torch.cat([table[:split], rows.to(table.dtype)]))
    embedding.num_embeddings, embedding.embedding_dim = embedding.weight.shape
    causal.set_input_embeddings(embedding)
    head = causal.get_output_embeddings()
    if tied:
        head.weight = embedding.weight
    else:
        _matrix(head, torch.cat([base_head, head_rows.to(base_head.dtype)]))
    head.out_features = space.vocab_size_total
    causal.config.vocab_size = space.vocab_size_total
    causal.config.tie_word_embeddings = tied
    causal.generation_config.eos_token_id = _ends(causal.generation_config.eos_token_id, space)
    if causal.generation_config.pad_token_id is None:
        causal.generation_config.pad_token_id = space.special("pad_mm")
    return causal


def _matrix(module: nn.Module, weight: torch.Tensor) -> nn.Module:
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module


def _ends(known: int | list[int] | None, space: TokenSpace) -> list[int]:
    """The base's own end tokens and those of our payloads."""
    before = [] if known is None else [known] if isinstance(known, int) else list(known)
    return [*before, *(space.special(role) for role in ("text_end", "img_end", "aud_end"))]


def _compare(
    folder: Path, probes: Sequence[np.ndarray], expected: Sequence[torch.Tensor], dtype: torch.dtype
) -> Parity:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False).eval()
    worst, same, count = 0.0, 0, 0
    with torch.no_grad():
        for ids, ours in zip(probes, expected, strict=True):
            theirs = plain(input_ids=torch.as_tensor(ids)[None].long()).logits[0].float()
            worst = max(worst, float((theirs - ours).abs().max() / ours.abs().max()))
            same += int((theirs.argmax(-1) == ours.argmax(-1)).sum())
            count += len(ids)
    if worst > TOLERANCE[dtype]:
        raise RuntimeError(
            f"the exported model gives other logits: they differ by {worst:.3g} of the largest, "
            f"more than {TOLERANCE[dtype]:.3g}"
        )
    return Parity(worst, same / max(1, count), count)


def save_codecs(source: Path, folder: Path) -> None:
    """codec.json of each codec of the run, and the codebooks of a built-in one; other weights stay where they are."""
    for modality in MODALITIES:
        if not (source / modality / "codec.json").is_file():
            continue
        (folder / modality).mkdir(parents=True)
        plugin = read_json(source / modality / "codec.json")["plugin"]
        for name in ("codec.json", *export_script.CODEC_FILES.get(plugin, ())):
            shutil.copyfile(source / modality / name, folder / modality / name)


def save_tokenizer(source: Path, folder: Path, space: TokenSpace) -> None:
    """The tokenizer of `source` with our names added: `convert_tokens_to_ids("<|gen_img|>")` gives our id.

    In a text such a name, or a control token of the base, is spelled with ordinary tokens, as in the run:
    tokenizer_config.json sets `split_special_tokens`. A chat template's text is encoded with
    `split_special_tokens=False`.

    Raises:
        UserError: it would give one of them another id than the token space does.
    """
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, folder / path.name)
    tokenizer = open_tokenizer_file(source / "tokenizer.json")
    add_names(tokenizer, space)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = folder / "tokenizer_config.json"
    settings = read_json(config) if config.is_file() else {"tokenizer_class": "PreTrainedTokenizerFast"}
    # What it lists of the base's tokens would replace what tokenizer.json says of them.
    settings.pop("added_tokens_decoder", None)
    write_json(config, {**settings, "split_special_tokens": True})


def probes_of(
    space: TokenSpace, golden: Mapping[str, Sequence[Mapping[str, Any]]], per_task: int = 2
) -> list[np.ndarray]:
    """Whole sequences (prompt and target) of the first golden records of each task."""
    return [
        np.concatenate([prompt(space, task, record["prompt_ids"]), record["target_ids"]]).astype(np.int64)
        for task, records in golden.items()
        for record in records[:per_task]
    ]
