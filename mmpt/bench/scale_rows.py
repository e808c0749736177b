"""Made-up records of the corpus, the manifest and the shards, each a function of its number. Standard library only: the
project that scale_inputs.py lays gets a copy.
"""

from __future__ import annotations

import hashlib
from typing import Any

from mmpt.store.tasks import MODALITIES

WORDS = (
    "a small large red green blue dog bird bell engine rain river square circle barks sings rings "
    "hums falls runs near far behind under over the old quiet loud street garden window twice slowly"
).split()
FRAMES, CODEBOOKS, CODEBOOK, IMAGE_TOKENS, IMAGE_CODES = 24, 2, 256, 16, 1024
DIGEST = "0" * 63


def caption(index: int) -> str:
    """Eight to fifteen words."""
    numbers = hashlib.blake2b(index.to_bytes(8, "big"), digest_size=16).digest()
    return " ".join(WORDS[number % len(WORDS)] for number in numbers[: 8 + numbers[0] % 8])


def record(index: int) -> dict[str, Any]:
    """A corpus record (schema record) whose medium does not exist."""
    modality, number = MODALITIES[index % 2], index // 2
    origin = f"made/{modality}/{number // 5 if modality == 'audio' else number}"
    official = hashlib.blake2b(origin.encode(), digest_size=1).digest()[0] < 26
    return {
        "id": f"{modality}-{number}",
        "modality": modality,
        "media": {"root": "made", "path": f"{origin}.bin"},
        "caption": caption(index),
        "source": "made",
        "group": origin,
        "category": None,
        "origin": origin,
        "license": "CC0-1.0",
        "attributes": None,
        "mentioned": None,
        "split_hint": "test" if official else None,
    }


def manifest_row(index: int) -> dict[str, Any]:
    """A manifest record (schema manifest_record)."""
    row = record(index)
    twice = row["modality"] == "image" and index // 2 % 50 == 49
    content = f"made/image/{index // 2 - 1}" if twice else row["origin"]
    digest = hashlib.sha256(content.encode()).hexdigest()
    sound = {"channels": 1, "rate": 16_000, "samples": 16_000 + index % 1000}
    return {
        **row,
        "bytes": 1000 + index % 1000,
        "media_sha256": digest,
        "content_sha256": digest,
        "audio": sound if row["modality"] == "audio" else None,
        "image": None if row["modality"] == "audio" else {"height": 16, "width": 16},
    }


def shard_row(index: int) -> dict[str, Any]:
    """A shard's record (schema shard_record)."""
    row = manifest_row(index)
    for key in ("split_hint", "bytes", "content_sha256", "audio", "image"):
        del row[key]
    fields = sound_fields(16_000) if row["modality"] == "audio" else PICTURE_FIELDS
    n_tokens = FRAMES * CODEBOOKS if row["modality"] == "audio" else IMAGE_TOKENS
    stamp = {"token_space": DIGEST + "1", "codec": DIGEST + "2"}
    return {**row, **fields, **stamp, "split": "train", "n_tokens": n_tokens}


def sound_fields(samples: int) -> dict[str, Any]:
    """What encoding says of a sound (schema shard_record)."""
    return {
        "n_codebooks": CODEBOOKS,
        "frames": FRAMES,
        "sample_rate": 16_000,
        "channels": 1,
        "samples": samples,
        "clipped": False,
        "scales": None,
        "codec_meta": {},
        "encode_size": None,
        "decode_size": None,
    }


PICTURE_FIELDS = dict.fromkeys(sound_fields(0)) | {"encode_size": [16, 16], "decode_size": [16, 16]}
