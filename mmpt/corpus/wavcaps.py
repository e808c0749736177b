"""Reader `wavcaps`: WavCaps as published (cvssp/WavCaps): a JSON file and a folder of flac for each subset.

    json_files/AudioSet_SL/as_final.json          {"data": [{"id": "Yb0RFKhbpFJA.wav", "caption": .., ..}]}
    json_files/FreeSound/fsd_final.json, BBC_Sound_Effects/bbc_final.json, SoundBible/sb_final.json
    json_files/blacklist/blacklist_exclude_test_ac.json     {"AudioSet": [ids], "FreeSound": [ids]}
    <anywhere>/AudioSet_SL_flac/*.flac (or AudioSet_SL/)    unpacked from Zip_files/AudioSet_SL.z01 .. .zip

AudioSet ids end in .wav and begin with Y, the files end in .flac. The blacklist names what is in the test
sets of AudioCaps and Clotho: those records count as official test and stay out of training, whether or not
these data sets are sources too. Origins are the YouTube or Freesound ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmpt.corpus.media_folder import MediaFolder, plain
from mmpt.corpus.problems import Problem
from mmpt.corpus.published import Entry, find_file, read_json_file, to_records
from mmpt.store.errors import UserError

LICENSE = "academic use only (WavCaps)"
BLACKLIST = "blacklist_exclude_test_ac.json"


@dataclass(frozen=True)
class Subset:
    """One of the four sources of WavCaps."""

    file: str
    id: str  # prefix of record ids
    source: str
    origin: str  # prefix of origins
    blacklist: str = ""  # its key in the blacklist


SUBSETS = {
    "AudioSet_SL": Subset("as_final.json", "wavcaps_as", "wavcaps_audioset", "youtube", "AudioSet"),
    "FreeSound": Subset("fsd_final.json", "wavcaps_fsd", "wavcaps_freesound", "freesound", "FreeSound"),
    "BBC_Sound_Effects": Subset("bbc_final.json", "wavcaps_bbc", "wavcaps_bbc", "bbc"),
    "SoundBible": Subset("sb_final.json", "wavcaps_sb", "wavcaps_soundbible", "soundbible"),
}


def read(folder: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem): one record an item, `wavcaps_as:<id>` and so on.

    Raises:
        UserError: none of the JSON files, a damaged one, a subset whose audio is not unpacked.
    """
    name, below = source["name"], source.get("metadata", ".")
    wanted = source.get("subsets", list(SUBSETS))
    files = {
        part: file
        for part in wanted
        if (file := find_file(folder, SUBSETS[part].file, below, name, needed="subsets" in source))
    }
    if not files:
        raise UserError(
            "no JSON file of WavCaps below the source's folder",
            where=f"corpus source {name}",
            found=str(folder / below),
            expected=" or ".join(f"json_files/{part}/{one.file}" for part, one in SUBSETS.items()),
        )
    media = MediaFolder.of(folder, source.get("media", "."))
    official = _official_test(folder, below, name)
    entries = [entry for part, file in files.items() for entry in _entries(part, file, media, official, source)]
    packed = {part: MediaFolder((), _archives(media, part)).packed() for part in files}
    return to_records(entries, name, packed, source.get("limit"), media.to_convert())


def _entries(
    part: str,
    file: Path,
    media: MediaFolder,
    official: Mapping[str, frozenset[str]],
    source: Mapping[str, Any],
) -> Iterator[Entry]:
    where, subset = f"{source['name']}/{file.name}", SUBSETS[part]
    items = read_json_file(file, where)
    items = items.get("data") if isinstance(items, dict) else None
    if not isinstance(items, list):
        raise UserError('no list "data"', where=where, expected='{"data": [{"id", "caption"}, ..]}')
    stems = media.where(lambda path: part.lower() in _folders(path)).by_stem()
    for at, item in enumerate(items):
        place = f"{where}[{at}]"
        given = item.get("id") if isinstance(item, dict) else None
        if not isinstance(given, (str, int)) or not str(given).strip():
            fault = (
                "bad_line",
                "item without an id",
                str(item)[:60],
                "an object with id and caption",
                "remove it",
            )
            yield Entry(place, part, fault=fault)
            continue
        sound = plain(str(given))
        stem = sound.removesuffix(".wav").removesuffix(".flac")
        yield Entry(
            place,
            part,
            id=f"{subset.id}:{sound}",
            medium=f"{part}_flac/{stem}.flac",
            found=stems.get(stem, ()),
            caption=item.get("caption", ""),
            origin=f"{subset.origin}:{stem.removeprefix('Y') if part == 'AudioSet_SL' else stem}",
            source=subset.source,
            license=source.get("license", LICENSE),
            split="test" if stem in official.get(subset.blacklist, ()) else None,
        )


def _folders(path: PurePosixPath) -> set[str]:
    """Names of a file's folders, in lower case and without the _flac of the archives."""
    return {folder.lower().removesuffix("_flac") for folder in path.parent.parts}


def _official_test(folder: Path, below: str, name: str) -> dict[str, frozenset[str]]:
    """Blacklist key -> stems that are in the test sets of AudioCaps or Clotho."""
    file = find_file(folder, BLACKLIST, below, name, needed=False)
    if file is None:
        return {}
    found = read_json_file(file, f"{name}/{BLACKLIST}")
    if not isinstance(found, dict) or not all(isinstance(ids, list) for ids in found.values()):
        raise UserError("not a blacklist", where=f"{name}/{BLACKLIST}", expected='{"AudioSet": [ids], ..}')
    return {key: frozenset(plain(str(one)).removesuffix(".wav") for one in ids) for key, ids in found.items()}


def _archives(media: MediaFolder, part: str) -> tuple[str, ...]:
    return tuple(path for path in media.archives if part.lower() in path.lower())
