"""S3, on the evidence of stage shard_audit.

What it finds: shards that do not hold what the codecs say, that do not re-encode alike, or that decode badly.
"""

CODEC_CHANGED = (
    "`doit why codecs` says what changed in the codec: take it back, or take the new level as "
    "the baseline with `doit accept`"
)

GATE = {
    "id": "S3",
    "title": "Shards hold what the codecs say, and decode",
    "stage": "shard_audit",
    "blocks": "train",
    "checks": [
        {
            "id": "segments",
            "metric": "ids_out_of_segment",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "ids outside the segment of their position",
            "remedy": ("{run}/shard_audit/data/audit.json names records and ids; delete {run}/shards and run doit"),
        },
        # audio: ids != frames x codebooks; image: ids != tokens_per_image
        {
            "id": "lengths",
            "metric": "length_mismatches",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "records whose length is not frames x codebooks",
            "remedy": "{run}/shard_audit/data/audit.json names the records; delete {run}/shards and run doit",
        },
        # records (or shard headers) whose token-space digest is not the run's
        {
            "id": "digests",
            "metric": "digest_mismatches",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "records of another token space",
            "remedy": ("delete {run}/shards and run doit, so that they are made with this run's token_space.json"),
        },
        # records in a shard of another side than the split's
        {
            "id": "sides",
            "metric": "records_in_wrong_split",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "records in the shards of another split",
            "remedy": "{run}/shard_audit/data/audit.json names the records; delete {run}/shards and run doit",
        },
        # records of the split that are in no shard and that errors.jsonl does not name. A share would let the end of a
        # large corpus go missing: `failures` bounds what could not be encoded, and names it
        {
            "id": "accounted",
            "metric": "records_unaccounted",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "records of the split are in no shard, and no error says why",
            "remedy": (
                "compare the ids of {run}/split/data/split.jsonl with those of {run}/shards/data: shards were lost, or "
                "the plan leaves records out; delete {run}/shards and run doit"
            ),
        },
        {
            "id": "twice",
            "metric": "records_twice",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "records are in the shards more than once",
            "remedy": "{run}/shard_audit/data/audit.json names the records; delete {run}/shards and run doit",
        },
        # share of tokens that differ when min(512, all) items are encoded again from their media
        {
            "id": "reencode",
            "metric": "reencode_mismatch_rate",
            "slices": ["audio", "image"],
            "rule": "max",
            "requires": "raw_media",
            "message": "encoding again gives other tokens",
            "remedy": (
                "the media changed, or the codec is not deterministic or not the one that wrote the shards: "
                "delete {run}/shards and run doit; if it comes back, run `pytest tests/codecs` and set "
                "runtime.threads: 1"
            ),
        },
        # min(512, all) less the items really compared
        {
            "id": "reencode_items",
            "metric": "reencode_items_missing",
            "slices": ["audio", "image"],
            "rule": "max",
            "on_fail": "cannot_decide",
            "voids": ["reencode"],
            "requires": "raw_media",
            "message": "fewer items encoded again than promised",
            "remedy": (
                "{run}/shard_audit/data/audit.json says which and why (offenders, check reencode): restore "
                "the media and run doit"
            ),
        },
        # of min(32, all): decodes with a wrong rate, channel count, length or picture size, or that failed
        {
            "id": "decode",
            "metric": "decode_errors",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "stored codes do not decode to the rate, channels or size of their codec",
            "remedy": (
                "{run}/shard_audit/data/audit.json says what came out instead; hold codecs.audio or "
                "codecs.image against what wrote the shards, then delete {run}/shards and run doit"
            ),
        },
        # sound decodes that could not be compared with their medium
        {
            "id": "compared_items",
            "metric": "compare_items_missing",
            "slices": ["audio", "image"],
            "rule": "max",
            "on_fail": "cannot_decide",
            "voids": [
                "trivial_items",
                "trivial_mean",
                "gain",
                "reconstruction",
                "own",
                "si_sdr_baseline",
                "log_mel_baseline",
                "psnr_baseline",
                "ssim_baseline",
            ],
            "requires": "raw_media",
            "message": "fewer decodes compared with their medium than promised",
            "remedy": (
                "{run}/shard_audit/data/audit.json says which and why (offenders, check compare): restore "
                "the media and run doit"
            ),
        },
        # rules of mmpt/codecs/contract.py that did not hold in stage codecs: codes that depend on the other media of
        # the call or on earlier calls, another process that gives other codes, silence that cannot be encoded, ..
        {
            "id": "contract",
            "metric": "contract_rules_broken",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "the codec breaks its contract",
            "remedy": (
                "{run}/codecs/data/*/contract.json says which rule and what was found; mend the codec and try it with "
                "`python -m mmpt.codecs.check`: the likeliest cause is state that one call leaves to the next"
            ),
        },
        # share of the items whose decode is better after it was mirrored, turned, rolled by a token or had its channels
        # swapped, by 0.3 of what that change does to the medium; items that no such change alters are left out. One
        # item of 32 may be: a small codebook gives a rare colour as another one. Codecs that twist have 0.5 to 1
        {
            "id": "trivial_items",
            "metric": "trivial_items_better",
            "slices": ["audio", "image"],
            "rule": "max",
            "requires": "raw_media",
            "message": "decodes are better after a mirroring, a rolling or a swap of channels",
            "remedy": (
                "{run}/shard_audit/data/audit.json names the change (trivial, worst_change): look for it in the "
                "codec's encode and decode (axis order, RGB against BGR, an offset of one token)"
            ),
        },
        # the mean of the same margin over the items, of the change where it is least
        {
            "id": "trivial_mean",
            "metric": "trivial_margin_mean",
            "slices": ["audio", "image"],
            "rule": "min",
            "requires": "raw_media",
            "message": "decodes are no better than mirrored, rolled or channel-swapped versions of themselves",
            "remedy": (
                "{run}/shard_audit/data/audit.json names the change (trivial, mean_change): look for it in the "
                "codec's encode and decode (axis order, RGB against BGR, an offset of one token)"
            ),
        },
        # median over the items: how much nearer the decode is than its constant version, in sizes of the item's own
        # variation; than another item's decode where the item is flat, steady or noise. A floor of ours beside the
        # codec's own `quality_floor`. The same honest codecs have 0.32 to 0.60, codecs that give a constant -0.06 to
        # 0.0
        {
            "id": "gain",
            "metric": "gain_over_constant",
            "slices": ["audio", "image"],
            "rule": "min",
            "requires": "raw_media",
            "message": "decodes are hardly nearer to their media than a constant picture or a steady sound",
            "remedy": (
                "raise codecs.audio.codebook_size or codecs.audio.n_codebooks, or codecs.image.codebook_size, or "
                "lower codecs.image.patch; weights that were not loaded look like this too"
            ),
        },
        # median of the codec's own quality metric over the items that are not silent, less its floor (higher is better)
        {
            "id": "reconstruction",
            "metric": "reconstruction_margin",
            "slices": ["audio", "image"],
            "rule": "min",
            "requires": "raw_media",
            "message": "reconstruction is under the codec's floor",
            "remedy": (
                "raise codecs.audio.codebook_size or codecs.audio.n_codebooks, or "
                "codecs.image.codebook_size, or lower codecs.image.patch; or add training media, or choose "
                "another codec"
            ),
        },
        # share of the items whose decode is nearer to their own medium than the decode of another item, by the codec's
        # own metric. Chance is 0.5. It holds for any media and any codec: rain, whose SI-SDR is far below 0 dB after an
        # honest decode, and SEED, which paints another picture of the same content. Measured on 2026-11-30: 1.0 for
        # 24 clips of noise and drops made anew in 16 bands, for 68 real recordings so made, and for the built-in codecs
        {
            "id": "own",
            "metric": "own_win_rate",
            "slices": ["audio", "image"],
            "rule": "min",
            "requires": "raw_media",
            "message": "decodes are no nearer to their own media than to others",
            "remedy": (
                "listen to a few: `doit sample` encodes and decodes a file; weights that were not loaded, files of "
                "two models and a wrong rate look like this"
            ),
        },
        # accepted baseline: at most 1 dB SI-SDR, 5 % log-mel L1, 0.5 dB PSNR, 0.02 SSIM worse (medians over the
        # decoded items that are not silent). SI-SDR and log-mel L1 may rank two codecs in opposite order: one keeps
        # the wave, the other the spectrum
        {
            "id": "si_sdr_baseline",
            "metric": "si_sdr_db",
            "slices": ["audio"],
            "rule": "min",
            "compared_with": "baseline",
            "requires": "raw_media",
            "message": "SI-SDR fell against the accepted baseline",
            "remedy": CODEC_CHANGED,
        },
        {
            "id": "log_mel_baseline",
            "metric": "log_mel_l1",
            "slices": ["audio"],
            "rule": "max",
            "compared_with": "baseline",
            "requires": "raw_media",
            "message": "log-mel L1 rose against the accepted baseline",
            "remedy": CODEC_CHANGED,
        },
        {
            "id": "psnr_baseline",
            "metric": "psnr_db",
            "slices": ["image"],
            "rule": "min",
            "compared_with": "baseline",
            "requires": "raw_media",
            "message": "PSNR fell against the accepted baseline",
            "remedy": CODEC_CHANGED,
        },
        {
            "id": "ssim_baseline",
            "metric": "ssim",
            "slices": ["image"],
            "rule": "min",
            "compared_with": "baseline",
            "requires": "raw_media",
            "message": "SSIM fell against the accepted baseline",
            "remedy": CODEC_CHANGED,
        },
        # "codecs and base text see train only" (S2's rule, measured here because both are made after the
        # split); n: items the codec was fitted on (0 for a pretrained one); sentences of text_train (0 for a
        # pretrained base)
        {
            "id": "codec_fit",
            "metric": "codec_fit_items_outside_train",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "a codec was fitted on val or test items",
            "remedy": "delete {run}/codecs and run doit: codecs are fitted on the train split alone",
        },
        {
            "id": "base_text",
            "metric": "base_text_captions_outside_train",
            "rule": "max",
            "message": "captions of val or test are in the text that the base learns from",
            "remedy": (
                "take the lines out of text.replay_file if you gave one, then delete {run}/token_space and run doit"
            ),
        },
        # sounds of the decoded ones that are silent themselves (RMS under 80 dB below full scale): left out of the
        # above
        {
            "id": "silent",
            "metric": "silent_decoded",
            "slices": ["audio"],
            "rule": "max",
            "requires": "raw_media",
            "message": "silent sounds among the decoded ones",
            "remedy": "S1.silent_sounds counts them over the whole corpus",
        },
        # share of the sounds that were cut to codecs.audio.clip_seconds before they were encoded
        {
            "id": "cut",
            "metric": "cut_share",
            "slices": ["audio"],
            "rule": "max",
            "requires": "raw_media",
            "message": ("sounds are longer than the clip that the model hears; their captions may describe the rest"),
            "remedy": (
                "raise codecs.audio.clip_seconds (`doit fit` says what that costs), or cut the recordings "
                "and their captions yourself"
            ),
        },
        # share of the split's records that are not in the shards
        {
            "id": "failures",
            "metric": "encode_failure_rate",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "records are missing from the shards",
            "remedy": (
                "{run}/shards/data/errors.jsonl says what failed for each record: mend those media or "
                "delete their lines from the source, then run doit"
            ),
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
