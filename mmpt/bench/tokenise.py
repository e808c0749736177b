"""Benchmark of tokenising: `doit bench tokenise [--device cuda] [--codec encodec_24khz ..]`.

Recordings lie as 16-bit wav files at 44.1 kHz, four in five longer than the clip. Both ways read, resample,
cut, encode and map to ids: `one` calls the encoder record by record, as the reference run's tokeniser did,
`batched` is `encode_records` as stage shards calls it. They alternate in one process, so that a machine that
slows down slows both. EnCodec has the published sizes and random weights, which cost what trained ones cost.
Prints a line a codec and writes results/tokenise-<device>-<chip>-<date>.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from mmpt.bench import machine, record
from mmpt.codecs import registry
from mmpt.codecs.melrvq import MelRvq, MelRvqOptions
from mmpt.codecs.patchvq import PatchVq, PatchVqOptions
from mmpt.shards.encode import AudioEncoder, Encoded, Encoder, ImageEncoder, Record, encode_records
from mmpt.tokens.space import build_token_space

RATE = 44_100
CODECS = ("melrvq", "patchvq", "encodec_24khz", "encodec_48khz")


@dataclass(frozen=True)
class TokeniseSettings:
    """What is measured: `clips` records of `seconds`, in batches of `batch`, `rounds` times each way."""

    clips: int
    seconds: float
    batch: int
    rounds: int
    threads: int
    device: str


def measure(name: str, setting: TokeniseSettings, folder: Path) -> dict[str, Any]:
    """Seconds of each round both ways, clips per second, and how many tokens differ between them.

    Processor seconds are given besides wall time: on a shared machine they show what batching costs.
    """
    records = _pictures(folder, setting) if name == "patchvq" else _sounds(folder, setting)
    encoder = _encoder(name, setting, folder)
    ways: dict[str, Callable[[], list[Any]]] = {
        "one": lambda: [encoder.encode([encoder.load(record)])[0] for record in records],
        "batched": lambda: encode_records(encoder, records, setting.batch, threads=setting.threads),
    }
    results = {way: run() for way, run in ways.items()}  # warms up, and is what is compared
    times: dict[str, list[float]] = {way: [] for way in ways}
    work: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(setting.rounds):
        for way, run in ways.items():
            machine.wait(setting.device)
            start, worked = time.perf_counter(), time.process_time()
            run()
            machine.wait(setting.device)
            times[way].append(time.perf_counter() - start)
            work[way].append(time.process_time() - worked)
    best = {way: len(records) / min(found) for way, found in times.items()}
    return {
        "codec": name,
        "clips": len(records),
        "batch": setting.batch,
        "clips_per_second": best,
        "speedup": best["batched"] / best["one"],
        "seconds": times,
        "processor_seconds": work,
        **_compared(results["one"], results["batched"]),
    }


def _compared(one: list[Any], batched: list[Any]) -> dict[str, int]:
    pairs = list(zip(one, batched, strict=True))
    failed = sum(not isinstance(result, Encoded) for pair in pairs for result in pair)
    if failed:
        raise RuntimeError(f"{failed} records were not encoded")
    different = sum(int((a.ids != b.ids).sum()) for a, b in pairs)
    return {"tokens": sum(len(a.ids) for a, _ in pairs), "tokens_that_differ": different}


def _sounds(folder: Path, setting: TokeniseSettings) -> list[Record]:
    """Noise that swells and fades; every fifth recording is shorter than the clip."""
    rng, records = np.random.default_rng(0), []
    for index in range(setting.clips):
        length = setting.seconds * (rng.uniform(0.3, 0.9) if index % 5 == 4 else rng.uniform(1.0, 1.5))
        samples = round(length * RATE)
        swell = np.sin(np.linspace(0, np.pi * rng.uniform(1, 6), samples)) * rng.uniform(0.05, 0.4)
        path = folder / f"{index}.wav"
        soundfile.write(path, rng.standard_normal(samples) * swell, RATE, subtype="PCM_16")
        about = {"samples": samples, "rate": RATE, "channels": 1}
        records.append({"id": str(index), "media": {"root": "bench", "path": path.name}, "audio": about})
    return records


def _pictures(folder: Path, setting: TokeniseSettings) -> list[Record]:
    """Noise of 300 x 400 pixels, as JPEG."""
    rng, records = np.random.default_rng(0), []
    for index in range(setting.clips):
        path = folder / f"{index}.jpg"
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(path)
        records.append({"id": str(index), "media": {"root": "bench", "path": path.name}})
    return records


def _encoder(name: str, setting: TokeniseSettings, folder: Path) -> Encoder:
    rng, roots = np.random.default_rng(1), {"bench": folder}
    if name == "patchvq":
        pictures = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(64)]
        codec: Any = PatchVq.fit(pictures, PatchVqOptions(size=64, patch=8, codebook_size=256))
        return ImageEncoder(codec, _space(image=codec.codebook_size), roots)
    if name == "melrvq":
        waves = [rng.standard_normal((1, 32_000)).astype(np.float32) * 0.1 for _ in range(32)]
        codec = MelRvq.fit(waves, MelRvqOptions())
    else:
        codec = _encodec(name, folder / name, setting.device)
    return AudioEncoder(codec, _space(audio=codec), roots, setting.seconds)


def _encodec(name: str, folder: Path, device: str) -> Any:
    """EnCodec of the published size, opened the way a profile opens it."""
    from transformers import EncodecConfig, EncodecModel

    large: dict[str, Any] = dict(
        sampling_rate=48_000,
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        norm_type="time_group_norm",
        use_causal_conv=False,
        target_bandwidths=[3.0, 6.0, 12.0, 24.0],
    )
    torch.manual_seed(0)
    model = EncodecModel(EncodecConfig(**(large if name == "encodec_48khz" else {})))
    draw = torch.Generator().manual_seed(0)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("codebook.embed"):  # zeros as built: every code would be 0
            buffer.copy_(torch.randn(buffer.shape, generator=draw))
    model.save_pretrained(folder)
    codec: Any = registry.create_audio({"name": "encodec", "path": str(folder), "n_codebooks": 4})
    return codec.to(device)


def _space(audio: Any = None, image: int | None = None) -> Any:
    described = audio and {"n_codebooks": audio.n_codebooks, "codebook_size": audio.codebook_size}
    return build_token_space(
        base_text_model="bench",
        text_vocab_size=1000,
        n_special=64,
        image_tokenizer=None if image is None else {"codebook_size": image},
        audio_codec=described,
    )


def line(result: dict[str, Any]) -> str:
    """One codec as a line of text."""
    speed, work = result["clips_per_second"], result["processor_seconds"]
    busy = min(work["one"]) / min(work["batched"])
    return (
        f"{result['codec']:<14} one at a time {speed['one']:8.2f} clips/s   "
        f"batched {speed['batched']:8.2f} clips/s   "
        f"x{result['speedup']:.2f} (x{busy:.2f} by processor time)   "
        f"{result['tokens_that_differ']} of {result['tokens']} tokens differ"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the codecs, print a line each, write the results."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--codec", nargs="+", choices=CODECS, default=CODECS)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="length that a recording is cut to")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    setting = TokeniseSettings(given.clips, given.seconds, given.batch, given.rounds, given.threads, given.device)
    results = []
    for name in given.codec:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, setting, Path(folder)))
        print(line(results[-1]), flush=True)
    found = {
        "device": setting.device,
        "threads": setting.threads,
        "load_average": os.getloadavg()[0],
        "clip_seconds": setting.seconds,
        "torch": torch.__version__,
        "codecs": results,
    }
    print(record.write(f"tokenise-{setting.device}", setting.device, found))


if __name__ == "__main__":
    main()
