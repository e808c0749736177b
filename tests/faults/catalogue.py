"""The faults: each one changes one place of the source, a profile or the maker of an imported run.

Most were had by people: `thread` is a public issue or pull request, as OWNER/NAME#NUMBER. `expects` is the check that
must stop the fault, named before any run; another one that stops it counts as a miss. `expects` is empty where no gate
is known to look: such a fault is open until a run shows a GATE that is about it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

BOTH = ("generated", "captions")
GENERATED, CAPTIONS, IMPORTED = ("generated",), ("captions",), ("imported",)
SMOKE = "mmpt/profile/packaged/smoke.yaml"


@dataclass(frozen=True)
class Fault:
    """One mutation.

    Args:
        id: short name, unique.
        area: data, codec, tokens, sequences, packing, trainable, training, cache, decoding, saving, resuming, kernels,
            configuration or imported.
        what: the fault in a few words.
        file: path below the repository. old: text that occurs in it exactly once. new: what takes its place.
        expects: "<gate>.<check>", or "<stage>: <words of its refusal>"; empty: no gate is known to see it.
        thread: where people had it: OWNER/NAME#NUMBER, or empty.
        corpora: which runs it is put into.
    """

    id: str
    area: str
    what: str
    file: str
    old: str
    new: str
    expects: str
    thread: str = ""
    corpora: tuple[str, ...] = BOTH

    @property
    def digest(self) -> str:
        """SHA-256 of the mutation and of what is expected of it: a result is of one digest. The file is no part of it:
        code may move."""
        parts = (self.old, self.new, self.expects)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    @property
    def gate(self) -> str:
        """The gate that is expected to stop it; empty for a refusal, and where none is."""
        return "" if ": " in self.expects else self.expects.partition(".")[0]


DATA = (
    Fault(
        "official-split-ignored",
        "data",
        "records of the official test split are dealt out like all others",
        "mmpt/corpus/split.py",
        'hints.append(SPLITS.index(record["split_hint"]) if record["split_hint"] else FREE)',
        "hints.append(FREE)",
        "S2.official_test",
        "hkchengrex/MMAudio#50",
    ),
    Fault(
        "records-in-two-splits",
        "data",
        "every record is dealt out twice, to both sides",
        "mmpt/corpus/split.py",
        '            "decided_by": "hash" if free[unit] else "hint",\n        }\n',
        '            "decided_by": "hash" if free[unit] else "hint",\n        }\n'
        '        if record["split_hint"] == "test":\n'
        '            yield {"id": record["id"], "modality": record["modality"], "split": "train",'
        ' "unit": record["origin"], "decided_by": "hash"}\n',
        "S2.unassigned",
        "hkchengrex/MMAudio#50",
    ),
    Fault(
        "sounds-read-as-silence",
        "data",
        "the codec is given zeros in place of each sound",
        "mmpt/codecs/sound_files.py",
        "return _full_scale(wave[:, begin : begin + end - start]), end - start < length",
        "return _full_scale(0 * wave[:, begin : begin + end - start]), end - start < length",
        "S3.reconstruction",
        "OpenMOSS/AnyGPT#38",
    ),
    Fault(
        "pictures-read-as-one-colour",
        "data",
        "the picture reader gives the first pixel everywhere",
        "mmpt/codecs/picture_files.py",
        "return _decoded(picture, path)",
        "return _decoded(picture, path)[:1, :1].repeat(picture.height, 0).repeat(picture.width, 1)",
        "S1.one_colour_pictures",
    ),
    Fault(
        "codes-of-the-next-record",
        "data",
        "each record is stored with the codes of the next one",
        "mmpt/shards/tokenise.py",
        "kept = [(record, one) for record, one in zip(records, results, strict=True) if isinstance(one, Encoded)]",
        "kept = [(record, one) for record, one in zip(records, [*results[1:], results[0]], strict=True)]",
        "S3.reencode",
    ),
    Fault(
        "last-shards-lost",
        "data",
        "the last shard of each split is not written",
        "mmpt/shards/tokenise.py",
        "enumerate(range(0, len(part), per_shard))",
        "enumerate(range(0, max(1, len(part) - per_shard), per_shard))",
        "S3.accounted",
    ),
    Fault(
        "test-in-train-shards",
        "data",
        "the shards of train hold test too",
        "mmpt/shards/tokenise.py",
        "(side == SPLITS.index(split)))",
        '((side == SPLITS.index(split)) | ((split == "train") & (side == SPLITS.index("test")))))',
        "S3.sides",
        "hkchengrex/MMAudio#50",
    ),
    Fault(
        "test-captions-in-base-text",
        "data",
        "the base is pretrained on captions of test",
        "mmpt/shards/token_space.py",
        'if sides.get(r["id"]) == "train"]',
        'if sides.get(r["id"]) != "val"]',
        "S3.base_text",
    ),
    Fault(
        "codec-fitted-on-test",
        "data",
        "the codecs are fitted on test too",
        "mmpt/stages/codecs.py",
        'train = (record for record in mine if sides.get(record["id"]) == "train")',
        'train = (record for record in mine if sides.get(record["id"]) != "val")',
        "S3.codec_fit",
    ),
)

CODEC = (
    Fault(
        "red-and-blue-swapped",
        "codec",
        "decoded pictures are BGR",
        "mmpt/codecs/decoders.py",
        "np.rint(tiles.reshape(size, size, 3))",
        "np.rint(tiles.reshape(size, size, 3)[..., ::-1])",
        "S3.trivial_items",
    ),
    Fault(
        "grid-transposed",
        "codec",
        "decoding takes the grid by columns",
        "mmpt/codecs/decoders.py",
        "tiles = codebook[codes].reshape(side, side, patch, patch, 3).transpose(0, 2, 1, 3, 4)",
        "tiles = codebook[codes].reshape(side, side, patch, patch, 3).transpose(1, 2, 0, 3, 4)",
        "S3.trivial_items",
    ),
    Fault(
        "picture-codes-rolled",
        "codec",
        "the encoder's picture codes begin with the last one",
        "mmpt/codecs/patchvq.py",
        "return [nearest(each, self.codebook).astype(np.int32) for each in patches]",
        "return [np.roll(nearest(each, self.codebook), 1).astype(np.int32) for each in patches]",
        "S3.trivial_items",
        "canopyai/Orpheus-TTS#200",
    ),
    Fault(
        "picture-codes-constant",
        "codec",
        "every patch gets code 0, as from weights that were not loaded",
        "mmpt/codecs/patchvq.py",
        "return [nearest(each, self.codebook).astype(np.int32) for each in patches]",
        "return [0 * nearest(each, self.codebook).astype(np.int32) for each in patches]",
        "S3.gain",
        "zhenye234/LLaSA_training#47",
    ),
    Fault(
        "encoder-draws-noise",
        "codec",
        "the picture encoder adds noise that differs from call to call",
        "mmpt/codecs/patchvq.py",
        "return [nearest(each, self.codebook).astype(np.int32) for each in patches]",
        "return [nearest(each + np.random.normal(0, 9, each.shape).astype(each.dtype), self.codebook)"
        ".astype(np.int32) for each in patches]",
        "S3.contract",
        "ekwek1/soprano-factory#4",
    ),
    Fault(
        "decoder-draws-noise",
        "codec",
        "the picture decoder adds noise that differs from call to call",
        "mmpt/codecs/decoders.py",
        "np.rint(tiles.reshape(size, size, 3))",
        "np.rint(tiles.reshape(size, size, 3) + np.random.normal(0, 9))",
        "codecs: codec patchvq breaks its contract, rule decoded",
    ),
    Fault(
        "batch-changes-sound-codes",
        "codec",
        "a sound's codes depend on how many are encoded at once",
        "mmpt/codecs/melrvq.py",
        "return [self._encode_one(np.asarray(wave)) for wave in waves]",
        "return [self._encode_one(np.asarray(wave) * np.float32(1 + (len(waves) > 1))) for wave in waves]",
        "S3.contract",
        "huggingface/transformers#43377",
    ),
    Fault(
        "padding-changes-sound-codes",
        "codec",
        "a sound's codes depend on its place in the batch",
        "mmpt/codecs/melrvq.py",
        "return [self._encode_one(np.asarray(wave)) for wave in waves]",
        "return [self._encode_one(np.asarray(wave) * np.float32(1 + 0.5 * place)) for place, wave in enumerate(waves)]",
        "S3.contract",
        "sgl-project/sglang-omni#749",
    ),
    Fault(
        "sound-codebooks-permuted",
        "codec",
        "decoding reads the codebooks in the wrong order",
        "mmpt/codecs/decoders.py",
        "for book, row in zip(codebooks, codes, strict=True))",
        "for book, row in zip(codebooks[::-1], codes, strict=True))",
        "S3.reconstruction",
        "FoundationVision/UniTok#11",
    ),
    Fault(
        "sounds-reversed",
        "codec",
        "decoded sounds run backwards",
        "mmpt/codecs/decoders.py",
        "return np.pad(found, (0, max(0, samples - len(found))))[None, :samples]",
        "return np.pad(found, (0, max(0, samples - len(found))))[None, :samples][:, ::-1]",
        "S3.trivial_items",
    ),
    Fault(
        "sound-codes-one-frame-late",
        "codec",
        "sound codes are rolled by one frame",
        "mmpt/codecs/melrvq.py",
        "return AudioCodes(codes=np.stack(codes).astype(np.int32), samples=mono.size)",
        "return AudioCodes(codes=np.roll(np.stack(codes), 1, 1).astype(np.int32), samples=mono.size)",
        "S3.trivial_items",
        "QwenLM/Qwen3-TTS#337",
    ),
    Fault(
        "second-codebook-never-read",
        "codec",
        "decoding uses the first codebook alone",
        "mmpt/codecs/decoders.py",
        "sum(book[row] for book, row in zip(codebooks, codes, strict=True))",
        "sum(book[row] for book, row in list(zip(codebooks, codes, strict=True))[:1])",
        "S3.contract",
        "modelscope/ms-swift#9752",
    ),
)

TOKENS = (
    Fault(
        "codebooks-not-interleaved",
        "tokens",
        "sound ids lie codebook by codebook, not frame by frame",
        "mmpt/tokens/space.py",
        "return np.ascontiguousarray((codes + starts[:, None]).T).reshape(-1).astype(np.int32)",
        "return np.ascontiguousarray(codes + starts[:, None]).reshape(-1).astype(np.int32)",
        "S3.segments",
        "FoundationVision/UniTok#11",
    ),
    Fault(
        "picture-ids-off-by-one",
        "tokens",
        "picture ids are one too high",
        "mmpt/tokens/space.py",
        "return (codes + r.start).astype(np.int32)",
        "return (codes + r.start + 1).astype(np.int32)",
        "S3.segments",
        "canopyai/Orpheus-TTS#200",
    ),
    Fault(
        "sound-ids-overlap-pictures",
        "tokens",
        "the first sound codebook is mapped onto the ids of pictures",
        "mmpt/tokens/space.py",
        "np.array([r.start for r in self.audio_ranges], np.int64),\n            np.array([r.size",
        "np.array([r.start - 128 * (i == 0) for i, r in enumerate(self.audio_ranges)], np.int64),\n"
        "            np.array([r.size",
        "S3.segments",
        "zhenye234/LLaSA_training#20",
    ),
    Fault(
        "shards-of-another-token-space",
        "tokens",
        "records are stamped with another token space",
        "mmpt/shards/tokenise.py",
        'stamp = {"token_space": space.digest, "codec": encoder.identity}',
        'stamp = {"token_space": encoder.identity, "codec": encoder.identity}',
        "shards: this shard was written with another token space",
        "QwenAudio/CosyVoice#1705",
    ),
    Fault(
        "base-of-another-token-space",
        "tokens",
        "the base names another token space",
        "mmpt/stages/base.py",
        '"token_space": space.digest, "pretraining": None',
        '"token_space": space.digest[::-1], "pretraining": None',
        "A1.digests",
        "QwenAudio/CosyVoice#1705",
    ),
)

SEQUENCES = (
    Fault(
        "prompt-supervised",
        "sequences",
        "the prompt is supervised like the target",
        "mmpt/shards/example_set.py",
        'example.input_ids, example.labels, example.slots, record["id"]',
        "example.input_ids, np.where(np.arange(len(example.labels)) > 0, example.input_ids, -100), "
        'np.maximum(example.slots, 0), record["id"]',
        "A3.mask",
    ),
    Fault(
        "mask-hides-the-payload",
        "sequences",
        "only the last two labels of a sequence are kept",
        "mmpt/shards/example_set.py",
        'example.input_ids, example.labels, example.slots, record["id"]',
        "example.input_ids, np.where(np.arange(len(example.labels)) < len(example.labels) - 2, -100, example.labels), "
        'example.slots, record["id"]',
        "A3.segments",
        "vibevoice-community/VibeVoice#22",
    ),
    Fault(
        "targets-lose-their-tail",
        "sequences",
        "the last two codes of a medium are cut off",
        "mmpt/shards/example_set.py",
        "return self.shards.ids(int(self.rows[index]))",
        "return self.shards.ids(int(self.rows[index]))[:-2]",
        "A3.shortened",
        "canopyai/Orpheus-TTS#289",
    ),
    Fault(
        "start-tokens-swapped",
        "sequences",
        "sounds are asked for with the token of pictures",
        "mmpt/tokens/formats.py",
        '("text_end", "gen_aud", "aud_start"), "aud_end"),',
        '("text_end", "gen_img", "aud_start"), "aud_end"),',
        "A3.order",
    ),
    Fault(
        "every-second-example-lost",
        "sequences",
        "every second example is left out and not counted",
        "mmpt/shards/examples.py",
        "kept = np.flatnonzero(~(no_target | no_source | too_long))",
        "kept = np.flatnonzero(~(no_target | no_source | too_long))[::2]",
        "A3.kept",
    ),
    Fault(
        "medium-of-another-record",
        "sequences",
        "an example has the medium of the next record",
        "mmpt/shards/example_set.py",
        "return self.shards.ids(int(self.rows[index]))",
        "return self.shards.ids(int(self.rows[(index + 1) % len(self)]))",
        "A3.shortened",
    ),
    Fault(
        "trained-on-another-medium",
        "training",
        "training alone pairs each caption with the next medium",
        "mmpt/shards/example_set.py",
        "return self.build(index, text_ids=[] if empty_prompt else None)",
        "return self.build(\n"
        "            index,\n"
        "            text_ids=[] if empty_prompt else None,\n"
        "            payload_ids=self.payload_ids((index + 1) % len(self)),\n"
        "        )",
        "W1.gap",
    ),
)

PACKING = (
    Fault(
        "neighbours-seen",
        "packing",
        "attention takes the sequences of a packed row for one",
        "mmpt/train/objective.py",
        "return MicroBatch(ids, positions, labels, task, slot, lengths)",
        "return MicroBatch(ids, positions, labels, task, slot, (sum(lengths),))",
        "A3.packed",
    ),
    Fault(
        "positions-run-on",
        "packing",
        "positions do not restart at each packed sequence",
        "mmpt/shards/loader.py",
        "positions[row, start:stop], slot[row, start:stop] = np.arange(stop - start), one.slots",
        "positions[row, start:stop], slot[row, start:stop] = np.arange(start, stop), one.slots",
        "A3.packed_whole",
    ),
    Fault(
        "positions-doubled",
        "packing",
        "packed positions are twice what they should be",
        "mmpt/shards/loader.py",
        "positions[row, start:stop], slot[row, start:stop] = np.arange(stop - start), one.slots",
        "positions[row, start:stop], slot[row, start:stop] = 2 * np.arange(stop - start), one.slots",
        "A3.packed",
    ),
    Fault(
        "labels-shifted-twice",
        "packing",
        "the token after the next one is learned, in all tasks",
        "mmpt/train/objective.py",
        "return Targets(put(flat - 1), put",
        "return Targets(put(flat - 2), put",
        "A3.packed",
        "QwenLM/Qwen3-TTS#371",
    ),
)

TRAINABLE = (
    Fault(
        "new-rows-not-trained",
        "trainable",
        "no optimizer group holds the new rows",
        "mmpt/train/schedule.py",
        "        if wanted:\n",
        '        if wanted and name != "embed":\n',
        "A2.rows_in_optimizer",
        "FoundationVision/Liquid#20",
    ),
    Fault(
        "lora-not-trained",
        "trainable",
        "no optimizer group holds LoRA",
        "mmpt/train/schedule.py",
        "        if wanted:\n",
        '        if wanted and name != "lora":\n',
        "A2.lora_present",
        "PKU-Alignment/align-anything#184",
    ),
    Fault(
        "stage-4-trains-rows-alone",
        "trainable",
        "stage 4 freezes LoRA as an old warm-up does",
        "mmpt/train/preparation.py",
        'model.load_adapter(ctx.inputs["warmup"] / "checkpoint")',
        'model.load_adapter(ctx.inputs["warmup"] / "checkpoint"), model.train_rows_only()',
        "A2.lora_present",
        "PKU-Alignment/align-anything#184",
    ),
    Fault(
        "rate-of-rows-zero",
        "trainable",
        "the learning rate of the new rows is 0",
        "mmpt/train/preparation.py",
        '        dict(profile["train.lr"]),',
        '        {**profile["train.lr"], "embed": 0.0},',
        "A2.rows_in_optimizer",
        "facebookresearch/audiocraft#344",
    ),
    Fault(
        "base-changes",
        "trainable",
        "LoRA's forward adds itself to the frozen weight",
        "mmpt/model/fused_lora.py",
        "        base = self.get_base_layer()\n        return nn.functional.linear(x, base.weight + scale",
        "        base = self.get_base_layer()\n"
        "        base.weight.data.add_(1e-5 * (up @ down).detach())\n"
        "        return nn.functional.linear(x, base.weight + scale",
        "A2.frozen_same",
    ),
)

TRAINING = (
    Fault(
        "warmup-on-val",
        "training",
        "the warm-up draws from val",
        "mmpt/train/preparation.py",
        "_with_text(ctx, space, example_sets(ctx, space, weights), replay),\n"
        "        weights=_present(space, weights),\n        text_replay=replay,\n        ramp=0.0,",
        '_with_text(ctx, space, example_sets(ctx, space, weights, "val"), replay),\n'
        "        weights=_present(space, weights),\n        text_replay=replay,\n        ramp=0.0,",
        "W1.drawn",
        "hkchengrex/MMAudio#50",
    ),
    Fault(
        "trained-on-test",
        "training",
        "stage 4 draws from test",
        "mmpt/train/preparation.py",
        "_with_text(ctx, space, example_sets(ctx, space, weights), replay),\n"
        "        weights=_present(space, weights),\n        text_replay=replay,\n        ramp=ramp,",
        '_with_text(ctx, space, example_sets(ctx, space, weights, "test"), replay),\n'
        "        weights=_present(space, weights),\n        text_replay=replay,\n        ramp=ramp,",
        "B2.drawn",
        "hkchengrex/MMAudio#50",
    ),
    Fault(
        "first-checkpoint-published",
        "saving",
        "the last checkpoint's folder gets the first one's weights",
        "mmpt/stages/train.py",
        'source = step_folder(ctx.work / "run" / "steps", step)',
        'source = step_folder(ctx.work / "run" / "steps", outcome.saved[0])',
        "B1.scoring",
        "unslothai/unsloth#3547",
    ),
    Fault(
        "last-checkpoint-as-step-0",
        "saving",
        "what is compared with step 0 is compared with the last step itself",
        "mmpt/stages/train.py",
        '"initial": names[outcome.saved[0]],',
        '"initial": names[outcome.step],',
        "C2.growth",
    ),
    Fault(
        "emit-labels-shifted-twice",
        "training",
        "sounds and pictures learn the code after the next one",
        "mmpt/train/objective.py",
        "hidden.flatten(0, 1)[targets.at],",
        "hidden.flatten(0, 1)[targets.at - ((targets.task == 2) | (targets.task == 3)).long()],",
        "L1.shift",
        "QwenLM/Qwen3-TTS#371",
    ),
    Fault(
        "second-codebook-not-trained",
        "training",
        "the loss leaves the second codebook out",
        "mmpt/train/objective.py",
        "token_weight=weights[targets.task],",
        "token_weight=weights[targets.task] * (targets.slot != 5),",
        "B1.beats_unigram",
        "modelscope/ms-swift#9752",
    ),
    Fault(
        "half-of-the-payload-trained",
        "training",
        "stage 4 supervises the first half of each sound and picture",
        "mmpt/shards/example_set.py",
        "return self.build(index, text_ids=[] if empty_prompt else None)",
        "one = self.build(index, text_ids=[] if empty_prompt else None)\n"
        '        if self.task in ("t2a", "t2i"):\n'
        "            one.labels[len(one.labels) - len(one.payload_ids) // 2 - 1 :] = -100\n"
        "        return one",
        "B1.halves",
    ),
    Fault(
        "prompts-never-seen",
        "training",
        "training drops every prompt of sounds and pictures",
        "mmpt/shards/example_set.py",
        "return self.build(index, text_ids=[] if empty_prompt else None)",
        'return self.build(index, text_ids=[] if self.task in ("t2a", "t2i") else None)',
        "B3.win_swapped",
        "OpenMOSS/AnyGPT#38",
    ),
    Fault(
        "reading-not-trained",
        "training",
        "stage 4 gives the read tasks no loss",
        "mmpt/train/preparation.py",
        "return Prepared(model, loader, settings)\n\n\ndef ramp_end",
        'settings = replace(settings, task_weights={**settings.task_weights, "a2t": 0.0, "i2t": 0.0})\n'
        "    return Prepared(model, loader, settings)\n\n\ndef ramp_end",
        "B1.read_holds",
    ),
    Fault(
        "stage-4-reads-another-medium",
        "training",
        "stage 4 trains the read tasks on the medium of the record before",
        "mmpt/train/preparation.py",
        "return Prepared(model, loader, settings)\n\n\ndef ramp_end",
        'for task in ("a2t", "i2t"):\n'
        "        loader.sources[task].rows = np.roll(loader.sources[task].rows, 1)\n"
        "    return Prepared(model, loader, settings)\n\n\ndef ramp_end",
        "R1.win",
    ),
    Fault(
        "end-of-sounds-not-trained",
        "training",
        "the end token of sounds is never supervised",
        "mmpt/shards/example_set.py",
        "return self.build(index, text_ids=[] if empty_prompt else None)",
        "one = self.build(index, text_ids=[] if empty_prompt else None)\n"
        '        if self.task == "t2a":\n'
        "            one.labels[-1] = -100\n"
        "        return one",
        "E1.endless",
        "QwenLM/Qwen3-TTS#118",
    ),
    Fault(
        "heldout-text-trained-on",
        "data",
        "the held-out text is drawn from the text that is replayed",
        "mmpt/shards/token_space.py",
        '        heldout = _unseen(2 * ctx.seed + 1, ctx.profile.get("text.heldout_sentences", 0), seen)\n'
        "    kept_out = set(heldout)\n",
        '        heldout = list(dict.fromkeys(plain))[: ctx.profile.get("text.heldout_sentences", 0)]\n'
        "    kept_out = set()\n",
        "C3.not_trained",
    ),
)

DECODING = (
    Fault(
        "newest-key-masked-out",
        "cache",
        "a decoding step does not see the newest id",
        "mmpt/generate/slots.py",
        "seen = self.columns[:width] <= self.positions[:, None]",
        "seen = self.columns[:width] < self.positions[:, None]",
        "C1.greedy",
        "QwenLM/Qwen3-TTS#39",
    ),
    Fault(
        "decoding-positions-off-by-one",
        "cache",
        "decoding steps stand one position too far",
        "mmpt/generate/slots.py",
        "            self.positions[:, None],\n            attention_mask",
        "            self.positions[:, None] + 1,\n            attention_mask",
        "C1.greedy",
        "QwenLM/Qwen3-TTS#337",
    ),
    Fault(
        "cache-of-the-row-before",
        "cache",
        "prompts are written into the cache without their values",
        "mmpt/generate/cache.py",
        "memory[place.rows, :, :length] = new",
        "memory[place.rows, :, :length] = new * (memory is keys)",
        "C1.greedy",
    ),
    Fault(
        "untrained-checkpoint-decoded",
        "decoding",
        "golden outputs are made with the checkpoint of step 0",
        "mmpt/evaluate/generating.py",
        "return self.workshop.opened(self.trained.path(steps[model]))",
        "return self.workshop.opened(self.trained.path(self.trained.initial))",
        "C1.greedy",
        "zhenye234/LLaSA_training#47",
    ),
    Fault(
        "lora-off-at-generation",
        "decoding",
        "checkpoints are opened without LoRA, to generate and to measure",
        "mmpt/evaluate/checkpoint.py",
        "        with torch.no_grad(), model.merged(restore=False):\n",
        "        for name, one in model.named_parameters():\n"
        '            one.data.mul_("lora_" not in name)\n'
        "        with torch.no_grad(), model.merged(restore=False):\n",
        "C1.greedy",
    ),
    Fault(
        "prompt-of-another-item",
        "decoding",
        "golden items are generated for the prompt of another item",
        "mmpt/shards/golden.py",
        '"prompt_ids": condition_ids(examples, index),',
        '"prompt_ids": condition_ids(examples, (index + 1) % len(examples)),',
        "C1.greedy",
        "canopyai/Orpheus-TTS#289",
    ),
    Fault(
        "captions-without-medium",
        "decoding",
        "captions are generated without what they are about",
        "mmpt/evaluate/sets.py",
        'return prompt(space, record["task"], record["prompt_ids"])',
        'return prompt(space, record["task"], record["prompt_ids"] if record["task"] in ("t2a", "t2i") else [])',
        "C1.greedy",
    ),
    Fault(
        "picture-tokens-reversed",
        "decoding",
        "generated and stored pictures are decoded from reversed tokens",
        "mmpt/evaluate/sets.py",
        "return codecs.image.decode([space.image_from_global(ids)], [seed])[0]",
        "return codecs.image.decode([space.image_from_global(ids)[::-1]], [seed])[0]",
        "B4.ground_truth",
        "FoundationVision/LlamaGen#17",
    ),
    Fault(
        "generated-sounds-reversed",
        "decoding",
        "the codes of generated sounds, and of no others, are decoded backwards",
        "mmpt/evaluate/sets.py",
        "codes = AudioCodes(space.audio_from_global(ids)) if meta is None else stored_audio(space, ids, meta)",
        "codes = AudioCodes(space.audio_from_global(ids)[:, ::-1]) if meta is None else stored_audio(space, ids, meta)",
        "Q1.attributes",
        "QwenLM/Qwen3-TTS#39",
        GENERATED,
    ),
    Fault(
        "generated-sounds-reversed-no-oracle",
        "decoding",
        "the same, where no oracle hears them",
        "mmpt/evaluate/sets.py",
        "codes = AudioCodes(space.audio_from_global(ids)) if meta is None else stored_audio(space, ids, meta)",
        "codes = AudioCodes(space.audio_from_global(ids)[:, ::-1]) if meta is None else stored_audio(space, ids, meta)",
        "B4.decoded",
        "QwenLM/Qwen3-TTS#39",
        CAPTIONS,
    ),
    Fault(
        "stored-sounds-not-decodable",
        "decoding",
        "stored sound ids are handed to the codec from the end",
        "mmpt/evaluate/sets.py",
        "codes = AudioCodes(space.audio_from_global(ids)) if meta is None else stored_audio(space, ids, meta)",
        "codes = AudioCodes(space.audio_from_global(ids)) if meta is None else stored_audio(space, ids[::-1], meta)",
        "A4.decode",
        "ekwek1/soprano-factory#4",
    ),
    Fault(
        "sounds-written-at-half-the-rate",
        "decoding",
        "wav files name half the sample rate",
        "mmpt/evaluate/media.py",
        'soundfile.write(path, np.clip(wave, -1.0, 1.0).T, rate, format="WAV", subtype="PCM_16")',
        'soundfile.write(path, np.clip(wave, -1.0, 1.0).T, rate // 2, format="WAV", subtype="PCM_16")',
        "A4.form",
        "QwenLM/Qwen3-TTS#179",
    ),
    Fault(
        "sounds-clipped",
        "decoding",
        "sounds are written thirty times too loud",
        "mmpt/evaluate/media.py",
        'soundfile.write(path, np.clip(wave, -1.0, 1.0).T, rate, format="WAV", subtype="PCM_16")',
        'soundfile.write(path, np.clip(30 * wave, -1.0, 1.0).T, rate, format="WAV", subtype="PCM_16")',
        "B4.clipped",
    ),
    Fault(
        "sounds-written-silent",
        "decoding",
        "wav files hold a thousandth of the level",
        "mmpt/evaluate/media.py",
        'soundfile.write(path, np.clip(wave, -1.0, 1.0).T, rate, format="WAV", subtype="PCM_16")',
        'soundfile.write(path, np.clip(1e-3 * wave, -1.0, 1.0).T, rate, format="WAV", subtype="PCM_16")',
        "B4.silent",
        "OpenMOSS/AnyGPT#38",
    ),
    Fault(
        "pictures-written-as-bgr",
        "decoding",
        "png files have red and blue swapped",
        "mmpt/evaluate/media.py",
        'Image.fromarray(np.ascontiguousarray(pixels, np.uint8), "RGB")',
        'Image.fromarray(np.ascontiguousarray(pixels[..., ::-1], np.uint8), "RGB")',
        "B4.ground_truth",
        "FoundationVision/LlamaGen#17",
    ),
    Fault(
        "range-one-too-wide",
        "decoding",
        "the grammar allows the id after each segment",
        "mmpt/generate/slots.py",
        "return np.stack([grammar.lo[:n], grammar.hi[:n], extra, places], 1)",
        "return np.stack([grammar.lo[:n], grammar.hi[:n] + 1, extra, places], 1)",
        "C1.range",
        "canopyai/Orpheus-TTS#251",
    ),
    Fault(
        "codes-clamped",
        "decoding",
        "ids above the middle of their range are clamped to it",
        "mmpt/generate/slots.py",
        "        self.out[self.every_slot, self.step_at] = drawn\n",
        "        drawn = torch.where(drawn == self.end, drawn, torch.minimum(drawn, (lo + hi) // 2))\n"
        "        self.out[self.every_slot, self.step_at] = drawn\n",
        "C1.greedy",
        "unslothai/unsloth#3529",
    ),
    Fault(
        "sounds-cannot-end",
        "decoding",
        "the end token is not allowed in sounds of free length",
        "mmpt/generate/slots.py",
        "extra = np.where(grammar.end_allowed[:n], grammar.end_id, -1)",
        'extra = np.where(grammar.end_allowed[:n] & (grammar.task != "t2a"), grammar.end_id, -1)',
        "E1.endless",
        "QwenLM/Qwen3-TTS#118",
    ),
    Fault(
        "temperature-ignored",
        "decoding",
        "samples at temperature 1 are greedy outputs",
        "mmpt/evaluate/golden.py",
        "temperature=[TEMPERATURE[w.decoding] for w in wanted],",
        "temperature=[0.0 for w in wanted],",
        "C1.temperature",
    ),
    Fault(
        "one-seed-for-all",
        "decoding",
        "all samples draw with one seed",
        "mmpt/evaluate/golden.py",
        "seeds=[w.seed(setting.seed) for w in wanted],",
        "seeds=[setting.seed for w in wanted],",
        "C1.drawn",
        "QwenAudio/CosyVoice#1877",
    ),
)

SAVING = (
    Fault(
        "first-checkpoint-exported",
        "saving",
        "the export is made of the checkpoint of step 0",
        "mmpt/stages/staged_export.py",
        "checkpoint, space = trained.path(trained.final), workshop.space",
        "checkpoint, space = trained.path(trained.initial), workshop.space",
        "X1.ids",
        "fishaudio/fish-speech#1120",
    ),
    Fault(
        "exported-grammar-swaps-codebooks",
        "saving",
        "the exported grammar takes the codebooks in reverse order",
        "mmpt/model/grammar_logits.py",
        'audio = sorted(bounds for name, bounds in ranges.items() if name.startswith("AUDIO_CB"))',
        'audio = sorted((bounds for name, bounds in ranges.items() if name.startswith("AUDIO_CB")), reverse=True)',
        "X1.ids",
        "PkmX/orpheus-chat-webui#6",
    ),
    Fault(
        "exported-tokenizer-adds-a-token",
        "saving",
        "the exported tokenizer starts each text with an end-of-text token",
        "mmpt/model/export.py",
        "    add_names(tokenizer, space)\n    tokenizer.save(",
        "    add_names(tokenizer, space)\n"
        "    from tokenizers.processors import TemplateProcessing\n\n"
        '    start = [("<|endoftext|>", 0)]\n'
        '    tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=start)\n'
        "    tokenizer.save(",
        "X1.texts",
        "swiss-ai/model-launch#173",
    ),
    Fault(
        "first-checkpoint-released",
        "saving",
        "the release holds the adapter of step 0",
        "mmpt/stages/release.py",
        'for path in sorted((staged / "export" / "adapter").iterdir()):',
        'for path in sorted(final.with_name("step_0").iterdir()):',
        "release: the adapter to be released is not the one that was judged",
        "unslothai/unsloth#3547",
        GENERATED,
    ),
)

RESUMING = (
    Fault(
        "moments-forgotten",
        "resuming",
        "a resumed run starts AdamW anew",
        "mmpt/model/checkpoints.py",
        "optimizer.state[parameter] = _parameter_state(tensors, names[id(parameter)], parameter, path)",
        "optimizer.state[parameter] = {}",
        "C4.optimizer",
        "hiyouga/LlamaFactory#7665",
    ),
    Fault(
        "random-state-not-restored",
        "resuming",
        "a resumed run has another random state",
        "mmpt/model/checkpoints.py",
        'torch.set_rng_state(tensors["rng.cpu"])',
        'torch.manual_seed(int(tensors["rng.cpu"][0]))',
        "C4.rng",
    ),
    Fault(
        "moments-of-rows-not-saved",
        "saving",
        "checkpoints lack the moments of the new rows",
        "mmpt/model/checkpoints.py",
        "for key, value in optimizer.state.get(parameter, {}).items():",
        "for key, value in ({} if parameter is model.embedding.rows else optimizer.state.get(parameter, {})).items():",
        "C4.whole",
        "hiyouga/LlamaFactory#7665",
    ),
    Fault(
        "resumed-with-other-batches",
        "resuming",
        "a resumed run draws its data anew",
        "mmpt/train/loop.py",
        "run.loader.load_state_dict(saved.loader)",
        "run.loader.load_state_dict(saved.loader)\n    run.loader.seed += 1",
        "C4.batches",
        "modelscope/ms-swift#10050",
    ),
    Fault(
        "schedule-restarts",
        "resuming",
        "a resumed run starts its learning-rate schedule anew",
        "mmpt/train/loop.py",
        "rates = set_rates(run.optimizer, rate(run.step, settings))",
        "rates = set_rates(run.optimizer, rate(run.step - max(run.saved, default=0), settings))",
        "C4.parameters",
        "facebookresearch/audiocraft#344",
    ),
    Fault(
        "open-interval-lost",
        "resuming",
        "a resumed run forgets the steps since the last row of its log",
        "mmpt/train/loop.py",
        'Interval.of(saved.counters["interval"]),',
        "Interval.empty(model.space),",
        "C4.losses",
    ),
    Fault(
        "other-lora-not-refused",
        "resuming",
        "a checkpoint of another LoRA is loaded without a word",
        "mmpt/model/adapter.py",
        "if stored.get(key) != expected:",
        'if key != "lora" and stored.get(key) != expected:',
        "C4.refusals",
        "hiyouga/LlamaFactory#7997",
    ),
)

KERNELS = (
    Fault(
        "loss-off",
        "kernels",
        "the compiled loss is 0.01 too high",
        "csrc/linear_cross_entropy.cpp",
        "value = lse_i - values.target_logit[i], eps",
        "value = lse_i - values.target_logit[i] + 0.01, eps",
        "K1.error",
    ),
    Fault(
        "temperature-off",
        "kernels",
        "the compiled draw takes a temperature a fifth too high",
        "csrc/sampling.cpp",
        "offset[i], temperature[i], top_p[i], 0};",
        "offset[i], 1.2 * temperature[i], top_p[i], 0};",
        "K1.support",
    ),
)

CONFIGURATION = (
    Fault(
        "sequences-too-short",
        "configuration",
        "examples.max_seq_len leaves most captions out",
        SMOKE,
        "max_seq_len: 128",
        "max_seq_len: 30",
        "A3.kept",
        "hiyouga/LlamaFactory#6285",
    ),
    Fault(
        "warm-up-too-short",
        "configuration",
        "warmup.steps: 3",
        SMOKE,
        "warmup:\n  steps: 220",
        "warmup:\n  steps: 3",
        "W1.gap",
    ),
    Fault(
        "codebook-too-small",
        "configuration",
        "codecs.image.codebook_size: 4",
        SMOKE,
        "codebook_size: 320",
        "codebook_size: 4",
        "S3.gain",
        "FoundationVision/LlamaGen#17",
    ),
    Fault(
        "rate-too-high",
        "configuration",
        "train.lr.lora a thousand times too high",
        SMOKE,
        "{lora: 4.0e-3",
        "{lora: 4.0",
        "B2.finished",
        "deepseek-ai/Janus#216",
    ),
    Fault(
        "no-replay",
        "configuration",
        "mixture.text_replay: 0",
        SMOKE,
        "text_replay: 0.05",
        "text_replay: 0.0",
        "C3.nll",
    ),
)

MAKER = "tests/shards/upstream_run.py"
BROUGHT = (
    Fault(
        "imported-recording-on-both-sides",
        "imported",
        "an imported run has one recording in train and eval",
        MAKER,
        'side = "eval" if index // 2 % 3 == 0 else "train"',
        'side = "eval" if index % 3 == 0 else "train"',
        "S2.origins",
        "hkchengrex/MMAudio#50",
        IMPORTED,
    ),
    Fault(
        "imported-codebooks-not-interleaved",
        "imported",
        "imported sound ids lie codebook by codebook",
        MAKER,
        '(modality, one["ids"])):',
        '(modality, np.concatenate([one["ids"][::2], one["ids"][1::2]]) if modality == "audio" else one["ids"])):',
        "S3.segments",
        "FoundationVision/UniTok#11",
        IMPORTED,
    ),
    Fault(
        "imported-records-of-another-space",
        "imported",
        "imported records name another token space",
        MAKER,
        '"token_space_sha256": one.get("sha", run.sha)',
        '"token_space_sha256": one.get("sha", run.sha[::-1])',
        "S3.digests",
        "QwenAudio/CosyVoice#1705",
        IMPORTED,
    ),
    Fault(
        "imported-picture-ids-off-by-one",
        "imported",
        "imported picture ids are one too high, the last one 0",
        MAKER,
        "ids, text = space.image_to_global(codes), encode",
        "ids, text = space.image_to_global((codes + 1) % PATCHES), encode",
        "",  # open: an imported run brings codes and no media, and codes of another picture are as good as any
        "canopyai/Orpheus-TTS#200",
        IMPORTED,
    ),
)

FAULTS: tuple[Fault, ...] = (
    *(*DATA, *CODEC, *TOKENS, *SEQUENCES, *PACKING, *TRAINABLE),
    *(*KERNELS, *CONFIGURATION, *DECODING, *SAVING, *RESUMING, *TRAINING, *BROUGHT),
)
