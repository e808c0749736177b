"""Small folders in the layouts of Clotho, AudioCaps, WavCaps, MusicCaps and LLaVA-Pretrain."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

CLOTHO = {"development": 6, "validation": 2, "evaluation": 2}
YOUTUBE = [f"{'-_'[i % 2]}a{i:02d}Z{i % 7}{'_-'[i % 2]}bcde"[:11] for i in range(40)]


def sound(path: Path, seed: int, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(seed).standard_normal(round(8000 * seconds)) * 0.1
    soundfile.write(path, wave, 8000)


def table(path: Path, header: str, rows: list[list], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as stream:
        csv.writer(stream).writerows([header.split(","), *rows])


def clotho(root: Path) -> Path:
    """10 recordings with five captions each; the last of development has no Freesound id."""
    number = 0
    for part, count in CLOTHO.items():
        names = [f"Sound {part[0]} #{i}, één.wav" for i in range(count)]
        captions = [[name, *(f"{part} {i} caption {c}" for c in range(5))] for i, name in enumerate(names)]
        table(
            root / f"clotho_captions_{part}.csv",
            "file_name,caption_1,caption_2,caption_3,caption_4,caption_5",
            captions,
        )
        rows = []
        for name in names:
            number += 1
            found = "Not found" if number == 6 else str(1000 + number)
            licence = "http://creativecommons.org/publicdomain/zero/1.0/" if number % 2 else ""
            rows.append([name, "door;café", found, "Not found", "[0, 9]", "Café", licence])
            sound(root / "clotho_audio_files" / part / name, number)
        table(
            root / f"clotho_metadata_{part}.csv",
            "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license",
            rows,
            encoding="iso-8859-1",
        )
    return root


def audiocaps(root: Path, seconds: float = 0.1) -> Path:
    """8 training clips with a caption, 2 of val and 3 of test with five; each downloader's file names."""
    header, number = "audiocap_id,youtube_id,start_time,caption", 91800
    names = [
        *("{v}", "Y{v}", "{v}_{s}", "{v}_{s}_{e}", "{v}_{s}.000_{e}.000", "{v}_{s}000_{e}000"),
        *("[{v}]-[{s}-{e}]", "{n}"),
    ]
    at = 0
    for split, clips, each in (("train", 8, 1), ("val", 2, 5), ("test", 3, 5)):
        rows = []
        for clip in range(clips):
            video, start = YOUTUBE[at], 10 * (at % 4)
            first = number + 1
            for c in range(each):
                number += 1
                rows.append([number, video, start, f"{split} clip {clip}, said {c} ways"])
            stem = names[clip % 8 if each == 1 else clip % 7].format(v=video, s=start, e=start + 10, n=first)
            sound(root / "audio" / split / f"{stem}.{'flac' if at % 2 else 'wav'}", 100 + at, seconds)
            at += 1
        table(root / "dataset" / f"{split}.csv", header, rows)
    return root


def wavcaps(root: Path, audioset: list[str], freesound: list[int], blacklisted: tuple = ()) -> Path:
    items = [
        {"id": f"Y{video}.wav", "caption": f"as {i}", "audio": "wav_path", "duration": 10.0}
        for i, video in enumerate(audioset)
    ]
    for i, video in enumerate(audioset):
        sound(root / "mnt/fast/WavCaps/data/waveforms/AudioSet_SL_flac" / f"Y{video}.flac", 200 + i)
    write(root / "json_files/AudioSet_SL/as_final.json", {"num_captions_per_audio": 1, "data": items})
    items = [
        {"id": str(n) if i % 2 else n, "caption": f"fs {i}", "description": "x", "duration": 3.1}
        for i, n in enumerate(freesound)
    ]
    for i, n in enumerate(freesound):
        sound(root / "Audio/FreeSound" / f"{n}.flac", 300 + i)
    write(root / "json_files/FreeSound/fsd_final.json", {"num_captions_per_audio": 1, "data": items})
    listed = {
        "AudioSet": [f"Y{v}.wav" for v in blacklisted if not v.isdigit()],
        "FreeSound": [v for v in blacklisted if v.isdigit()],
    }
    write(root / "json_files/blacklist/blacklist_exclude_test_ac.json", listed)
    write(root / "json_files/blacklist/blacklist_exclude_all_ac.json", {"AudioSet": [], "FreeSound": []})
    return root


def musiccaps(root: Path, seconds: float = 0.1) -> Path:
    """12 clips, every third of AudioSet's evaluation set."""
    header = (
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval"
    )
    rows = []
    for i, video in enumerate(YOUTUBE[20:32]):
        caption = f'music {i},\nslow and "warm"'
        rows.append([video, 30, 40, "/m/04rlf", "['slow']", caption, 4, False, i % 3 == 0])
        sound(root / "wav" / f"[{video}]-[30-40].wav", 400 + i, seconds)
    table(root / "musiccaps-public.csv", header, rows)
    return root


def llava_item(i: int, image: str, **other) -> dict:
    ask = ("Describe the image.\n<image>", "<image>\nWhat is this?")[i % 2]
    turns = [{"from": "human", "value": ask}, {"from": "gpt", "value": f"picture {i} of something"}]
    return {"id": f"{i:09d}", "image": image, "conversations": turns, **other}


def llava(root: Path, below: str = ".", count: int = 12) -> Path:
    """`count` pictures in numbered folders beside the JSON file, or in images/."""
    items = [llava_item(i, f"{i % 3:05d}/{i:09d}.jpg") for i in range(count)]
    for i, item in enumerate(items):
        path = root / below / item["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    write(root / "blip_laion_cc_sbu_558k.json", items)
    return root


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
