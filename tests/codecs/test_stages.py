"""Stage codecs: fitted on train alone, for the modalities that the corpus has, with nothing of this machine
in it.
"""

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.codecs import registry, stages
from mmpt.codecs.stages import codecs, fit_choice
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext

SECTIONS = {
    "audio": {"name": "melrvq", "clip_seconds": 0.5, "n_codebooks": 2, "codebook_size": 8},
    "image": {"name": "patchvq", "size": 8, "patch": 4, "codebook_size": 8},
}


@pytest.fixture
def corpus(tmp_path):
    """Six pictures and six sounds; the last two of each are test."""
    root = tmp_path / "media"
    root.mkdir()
    rng = np.random.default_rng(0)
    manifest, split = [], []
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / f"p{i}.png")
        soundfile.write(root / f"s{i}.wav", rng.standard_normal(16_000) * 0.1, 16_000)
        for modality, file in (("image", f"p{i}.png"), ("audio", f"s{i}.wav")):
            manifest.append({"id": file, "modality": modality, "media": {"root": "real", "path": file}})
            split.append({"id": file, "split": "test" if i > 3 else "train"})
    return root, manifest, split


def run(tmp_path, corpus, name="one", sections=SECTIONS, only=None):
    root, manifest, split = corpus
    base = tmp_path / name
    for folder in ("corpus", "manifest", "split", "codecs"):
        (base / folder).mkdir(parents=True)
    write_jsonl(
        base / "manifest/manifest.jsonl", [row for row in manifest if only in (None, row["modality"])]
    )
    write_jsonl(base / "split/split.jsonl", split)
    profile = {"codecs": sections}
    inputs = {stage: base / stage for stage in ("corpus", "manifest", "split")}
    codecs(
        StageContext(
            "codecs",
            SliceView(profile, ("codecs",), "codecs"),
            inputs,
            base / "codecs",
            tmp_path,
            external={"real": root},
        )
    )
    return base / "codecs"


def test_both_codecs_are_written_loadable_and_described(tmp_path, corpus):
    out = run(tmp_path, corpus)
    for modality in ("audio", "image"):
        validate_file(out / modality / "codec.json", "codec")
    assert (
        registry.load_audio(out / "audio").n_codebooks == 2
        and registry.load_image(out / "image").tokens_per_image == 4
    )


def test_they_are_fitted_on_train_alone(tmp_path, corpus):
    out = run(tmp_path, corpus)
    assert [row["id"] for row in read_jsonl(out / "audio/fitted_on.jsonl")] == [f"s{i}.wav" for i in range(4)]
    before = str(Manifest.of(out))
    for i in (4, 5):  # other test media: the same codec
        Image.new("RGB", (8, 8)).save(corpus[0] / f"p{i}.png")
        soundfile.write(corpus[0] / f"s{i}.wav", np.zeros(100), 16_000)
    assert str(Manifest.of(run(tmp_path, corpus, "two"))) == before
    Image.new("RGB", (8, 8)).save(corpus[0] / "p0.png")
    assert str(Manifest.of(run(tmp_path, corpus, "three"))) != before


def test_sounds_are_cut_before_fitting(tmp_path, corpus):
    before = str(Manifest.of(run(tmp_path, corpus)))
    for i in range(4):  # what lies beyond clip_seconds is not heard
        wave, rate = soundfile.read(corpus[0] / f"s{i}.wav")
        soundfile.write(corpus[0] / f"s{i}.wav", np.concatenate([wave[:8000], np.zeros(9000)]), rate)
    assert str(Manifest.of(run(tmp_path, corpus, "two"))) == before


def test_only_modalities_of_the_corpus_get_a_codec(tmp_path, corpus):
    assert [p.name for p in run(tmp_path, corpus, only="image").iterdir()] == ["image"]
    with pytest.raises(UserError, match="no codec for any medium of the corpus.*found audio"):
        run(tmp_path, corpus, "two", {"image": SECTIONS["image"]}, only="audio")


def test_a_corpus_without_training_media_is_refused(tmp_path, corpus):
    root, manifest, split = corpus
    none = [{**row, "split": "test"} for row in split]
    with pytest.raises(UserError, match="no audio in the train split to fit codec melrvq on"):
        run(tmp_path, (root, manifest, none))


def test_a_pretrained_codec_is_copied_and_hears_train_for_its_gain_only(tmp_path, corpus, encodec_folder):
    for geometry, heard in (("24k", 0), ("48k", 4)):
        section = {
            "name": "encodec",
            "path": str(encodec_folder(geometry)),
            "clip_seconds": 0.5,
            "n_codebooks": 4,
        }
        out = run(tmp_path, corpus, geometry, {"audio": section})
        assert len(read_jsonl(out / "audio/fitted_on.jsonl")) == heard
        codec = registry.load_audio(out / "audio")
        assert (codec.median_scale is None) == (geometry == "24k")
        if heard:
            assert codec.median_scale == pytest.approx(0.1, rel=0.1)
        text = (out / "audio/codec.json").read_text() + (out / "audio/config.json").read_text()
        assert str(tmp_path) not in text and str(encodec_folder(geometry)) not in text


def test_a_large_corpus_is_sampled_by_id_not_by_order(monkeypatch):
    monkeypatch.setattr(stages, "FIT_ITEMS", 5)
    records = [{"id": str(i)} for i in range(40)]
    chosen = fit_choice(records)
    assert len(chosen) == 5
    assert {r["id"] for r in fit_choice(records[::-1])} == {r["id"] for r in chosen}
