"""Damaged files for every reader: small good ones, changed at random from a seed.

    python -m tests.inputs.fuzz pictures --files 100000       prints what came out, by format and change

also sounds; segments: parts of sounds; rows: parquet and arrow files with pictures in their rows.

Each file ends in a medium or in a MediaError. Everything else is printed with the number that makes the file again:
another exception, more than SECONDS, more than MEMORY, a process that died. A part of a file (cut, zeros in place of
its end) that is accepted and is not the whole medium is counted as `different`. The work is done in processes, each
replaced when it dies or hangs.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SECONDS, MEMORY = 10.0, 3 << 30  # of processor time for one file; address space of a process
HUNG = 300.0  # seconds without a result after which a process is ended
PARTS = ("cut", "zeros")  # changes after which nothing but the whole medium or a refusal is right


def changed(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """(name of the change, the data after it)."""
    how = ("bits", "bytes", "extremes", "cut", "zeros", "removed", "repeated", "swapped")[int(rng.integers(8))]
    out, size = bytearray(data), len(data)
    at, length = int(rng.integers(size)), int(rng.integers(1, max(2, size // 4)))
    if how == "bits":
        for place in rng.integers(size, size=int(rng.integers(1, 20))):
            out[place] ^= 1 << int(rng.integers(8))
    elif how == "bytes":
        places = rng.integers(min(size, 400), size=int(rng.integers(1, 8)))  # headers are at the front
        for place in places:
            out[place] = int(rng.integers(256))
    elif how == "extremes":
        value = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")
        start = at % min(size, 400)
        out[start : start + 4] = value[int(rng.integers(5))]
    elif how == "cut":
        del out[max(1, at) :]
    elif how == "zeros":
        out[at:] = bytes(size - at)
    elif how == "removed":
        del out[at : at + length]
    elif how == "repeated":
        out[at:at] = out[at : at + length]
    else:
        other = int(rng.integers(size))
        out[at : at + length], out[other : other + length] = out[other : other + length], out[at : at + length]
    return how, bytes(out) or b"\0"


def picture_files() -> dict[str, bytes]:
    """A small good picture in every form that Pillow writes and people have."""
    from PIL import Image

    rng = np.random.default_rng(0)
    photo = Image.fromarray((np.cumsum(np.cumsum(rng.standard_normal((48, 64, 3)), 0), 1) % 256).astype(np.uint8))
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "a cat", 0x8298: "CC0"})
    forms: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "JPEG", {"exif": exif}),
        ("RGB", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("L", "JPEG", {"restart_marker_blocks": 3}),
        ("RGB", "PNG", {"exif": exif}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("I;16", "PNG", {}),
        ("P", "GIF", {}),
        ("RGB", "WEBP", {"exif": exif}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGB", "AVIF", {"speed": 10, "exif": exif}),
        ("RGB", "BMP", {}),
        ("RGB", "TIFF", {"exif": exif}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("L", "TIFF", {"compression": "tiff_deflate"}),
        ("RGB", "TIFF", {"compression": "jpeg"}),
        ("1", "TIFF", {"compression": "group4"}),
        ("RGB", "JPEG2000", {}),
        ("RGB", "PPM", {}),
        ("RGB", "TGA", {}),
        ("RGB", "TGA", {"compression": "tga_rle"}),
        ("RGB", "ICO", {}),
        ("RGB", "ICNS", {}),
        ("RGB", "PCX", {}),
        ("RGB", "SGI", {}),
        ("RGB", "QOI", {}),
        ("RGB", "DDS", {}),
        ("1", "XBM", {}),
        ("1", "MSP", {}),
        ("RGB", "IM", {}),
    ]
    files = {}
    for mode, form, options in forms:
        picture = photo.convert("L").convert(mode) if mode == "I;16" else photo.convert(mode)
        stream = io.BytesIO()
        picture.save(stream, form, **options)
        files[" ".join([form, mode, *(f"{k} {v}" for k, v in options.items() if k != "exif")])] = stream.getvalue()
    return files


def sound_files() -> dict[str, bytes]:
    """A small good sound in every form that is read."""
    import soundfile

    rng = np.random.default_rng(0)
    wave = (rng.standard_normal((6000, 2)) * 0.1).astype(np.float32)
    forms = [
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("WAV", "ULAW"),
        ("WAV", "IMA_ADPCM"),
        ("WAVEX", "PCM_16"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AIFF", "IMA_ADPCM"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("NIST", "PCM_16"),
        ("SVX", "PCM_16"),
    ]
    files = {}
    for form, subtype in forms:
        stream = io.BytesIO()
        mono = form == "SVX" or subtype == "IMA_ADPCM"
        soundfile.write(stream, wave[:, 0] if mono else wave, 16_000, format=form, subtype=subtype)
        files[f"{form} {subtype}"] = stream.getvalue()
    return files


def read_picture(path: Path) -> Any:
    """What is compared: the pixels."""
    from mmpt.codecs.media import load_image

    pixels = load_image(path)
    return pixels.shape, pixels.tobytes()


def read_sound(path: Path) -> Any:
    """What is compared: the content's digest; a clip of the sound is loaded, too."""
    from mmpt.codecs.media import load_clip, summarise_audio

    about = summarise_audio(path)
    load_clip(path, 24_000, 1, 0.3, "center")
    return about.content_sha256


def read_segment(path: Path) -> Any:
    """What is compared: the digest of a part of a sound; a clip of it is loaded, too."""
    from mmpt.codecs.media import Segment

    return read_sound(Segment(path, 0.11, 0.2))


def row_files() -> dict[str, bytes]:
    """A small file with pictures in its rows in every form that is read."""
    from tests.corpus.parquet_files import MEDIUM, table_of, write

    files = list(picture_files().values())[4:7]
    columns = {
        "image": [{"bytes": data, "path": f"{at}.png"} for at, data in enumerate(files * 2)],
        "text": [["a cat", "one cat"], ["a dog"], ["\u00e9\u2028x"]] * 2,
        "label": [0, 1, 0] * 2,
    }
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table, made = table_of(columns, {"image": MEDIUM}, features), {}
    forms = (("parquet", "rows of 2", 2), ("parquet", "all rows", 6), ("arrow", "stream", 2), ("arrow", "file", 2))
    with tempfile.TemporaryDirectory() as folder:
        for suffix, form, rows in forms:
            made[f"{suffix} {form}"] = write(Path(folder) / f"f.{suffix}", table, rows, form).read_bytes()
    return made


def read_rows(path: Path) -> Any:
    """What is compared: id, caption and content of each record. A row that is lost is the file's MediaError."""
    from mmpt.codecs.media import MediaError
    from mmpt.corpus.manifest import measure
    from mmpt.corpus.parquet import read
    from mmpt.corpus.problems import Problem

    found = []
    for _, item in read(path.parent, {"name": "f", "file": path.name, "columns": {"category": "label"}}):
        one = item if isinstance(item, Problem) else measure(item, {"f": path.parent})
        if isinstance(one, Problem):
            raise MediaError(one.kind, one.what, where=one.where, found=one.found)
        found.append((one["id"], one["caption"], one["category"], one["content_sha256"]))
    return found


READERS: dict[str, tuple[Callable[[], dict[str, bytes]], Callable[[Path], Any]]] = {
    "pictures": (picture_files, read_picture),
    "sounds": (sound_files, read_sound),
    "segments": (sound_files, read_segment),
    "rows": (row_files, read_rows),
}


def outcome(kind: str, files: dict[str, bytes], whole: dict[str, Any], number: int, path: Path) -> tuple[str, str, str]:
    """(form, change, what came of it) of file `number`."""
    from mmpt.codecs.media import MediaError
    from mmpt.store.errors import UserError

    rng = np.random.default_rng([number, 31])
    form = sorted(files)[int(rng.integers(len(files)))]
    how, data = changed(files[form], rng)
    path = _named(path, kind, form)
    path.write_bytes(data)
    began = time.process_time()
    try:
        found = READERS[kind][1](path)
        came = "whole" if found == whole[form] else "different" if how in PARTS else "changed"
    except UserError as error:
        came = error.kind if isinstance(error, MediaError) else "refused"
        if "\n" in str(error) or len(str(error)) > 600:
            came = f"MESSAGE {str(error)[:80]!r}"
    except BaseException as error:
        came = f"RAISED {type(error).__name__}: {str(error)[:80]}"
    if (took := time.process_time() - began) > SECONDS:
        came = f"SLOW {took:.0f} s, {came}"
    return form, how, came


def _named(path: Path, kind: str, form: str) -> Path:
    """Files of rows are known by their suffix, the first word of the form."""
    return path.with_suffix(f".{form.split()[0]}") if kind == "rows" else path


def good_files(kind: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(form -> a good file, form -> what is read from it)."""
    files, whole = READERS[kind][0](), {}
    with tempfile.TemporaryDirectory() as folder:
        for form, data in files.items():
            (path := _named(Path(folder) / "f.bin", kind, form)).write_bytes(data)
            whole[form] = READERS[kind][1](path)
    return files, whole


def _work(kind: str, files: dict[str, bytes], whole: dict[str, Any], numbers: range, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.bin"
        for number in numbers:
            pipe.send((number, "", "", ""))
            pipe.send((number, *outcome(kind, files, whole, number, path)))
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "", "", "END"))


def run(kind: str, numbers: range, form: str = "") -> Iterator[tuple[int, str, str, str]]:
    """(number, form, change, what came of it) of each file; a process that dies or hangs is one of them.

    form: the only one to damage.
    """
    at, (files, whole) = numbers.start, good_files(kind)
    files = {form: files[form]} if form else files
    while at < numbers.stop:
        ours, theirs = multiprocessing.Pipe()
        work = (kind, files, whole, range(at, numbers.stop), theirs)
        process = multiprocessing.get_context("fork").Process(target=_work, args=work)
        process.start()
        theirs.close()
        try:
            while ours.poll(HUNG):
                number, form, how, came = ours.recv()
                if came == "END":
                    yield number, "", "", "END"
                    at = numbers.stop
                    break
                at = number + bool(came)
                if came:
                    yield number, form, how, came
            else:
                yield at, "", "", "HUNG"
                at += 1
        except EOFError:
            yield at, "", "", f"DIED, exit code {process.join() or process.exitcode}"
            at += 1
        process.kill()
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(READERS))
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--form", default="", help="damage this one only, as 'TIFF RGB'")
    options = parser.parse_args()
    counts: Counter = Counter()
    for number, form, how, came in run(options.kind, range(options.first, options.first + options.files), options.form):
        if came == "END":
            print(f"largest process: {number / 1024:.0f} MB")
        elif came[0].isupper():
            print(f"file {number} {form} {how}: {came}", flush=True)
        counts[form, how, came.split()[0]] += came != "END"
    for came in sorted({one[2] for one in counts}):
        print(f"{came:12} {sum(n for one, n in counts.items() if one[2] == came)}")
    for (form, how, came), n in sorted(counts.items()):
        if came in ("different", "changed"):
            print(f"{came:12} {form:28} {how:10} {n}")
    return int(any(one[2][0].isupper() and one[2] != "END" for one, n in counts.items() if n))


if __name__ == "__main__":
    sys.exit(main())
