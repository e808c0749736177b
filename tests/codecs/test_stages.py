"""Stage codecs: fitted on train alone, for the modalities that the corpus has, with nothing of this machine
in it.
"""

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.codecs import fitting, registry
from mmpt.codecs.fitting import fit_choice
from mmpt.stages.codecs import codecs
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl
from mmpt.store.schema import validate_file

SECTIONS = {
    "audio": {"name": "melrvq", "clip_seconds": 0.5, "n_codebooks": 2, "codebook_size": 8},
    "image": {"name": "patchvq", "size": 8, "patch": 4, "codebook_size": 8},
}


def run(corpus, name="one", sections=SECTIONS, only=""):
    return corpus.run(codecs, sections, name, only)


def test_both_codecs_are_written_loadable_and_described(tiny_corpus):
    out = run(tiny_corpus)
    for modality in ("audio", "image"):
        validate_file(out / modality / "codec.json", "codec")
    assert (
        registry.load_audio(out / "audio").n_codebooks == 2 and registry.load_image(out / "image").tokens_per_image == 4
    )


def test_they_are_fitted_on_train_alone(tiny_corpus):
    out = run(tiny_corpus)
    assert [row["id"] for row in read_jsonl(out / "audio/fitted_on.jsonl")] == [f"s{i}.wav" for i in range(4)]
    before = str(Manifest.of(out))
    for i in (4, 5):  # other test media: the same codec
        Image.new("RGB", (8, 8)).save(tiny_corpus.root / f"p{i}.png")
        soundfile.write(tiny_corpus.root / f"s{i}.wav", np.zeros(100), 16_000)
    assert str(Manifest.of(run(tiny_corpus, "two"))) == before
    Image.new("RGB", (8, 8)).save(tiny_corpus.root / "p0.png")
    assert str(Manifest.of(run(tiny_corpus, "three"))) != before


def test_sounds_are_cut_before_fitting(tiny_corpus):
    before = str(Manifest.of(run(tiny_corpus)))
    for i in range(4):  # what lies beyond clip_seconds is not heard
        wave, rate = soundfile.read(tiny_corpus.root / f"s{i}.wav")
        soundfile.write(tiny_corpus.root / f"s{i}.wav", np.concatenate([wave[:8000], np.zeros(9000)]), rate)
    assert str(Manifest.of(run(tiny_corpus, "two"))) == before


def test_only_modalities_of_the_corpus_get_a_codec(tiny_corpus):
    assert [p.name for p in run(tiny_corpus, only="image").iterdir()] == ["image"]
    with pytest.raises(UserError, match="no codec for any medium of the corpus.*found audio"):
        run(tiny_corpus, "two", {"image": SECTIONS["image"]}, only="audio")


def test_a_corpus_without_training_media_is_refused(tiny_corpus):
    for row in tiny_corpus.split:
        row["split"] = "test"
    with pytest.raises(UserError, match="no audio in the train split to fit codec melrvq on"):
        run(tiny_corpus)


def test_a_pretrained_codec_is_copied_and_hears_train_for_its_gain_only(tmp_path, tiny_corpus, encodec_folder):
    for geometry, heard in (("24k", 0), ("48k", 4)):
        section = {
            "name": "encodec",
            "path": str(encodec_folder(geometry)),
            "clip_seconds": 0.5,
            "n_codebooks": 4,
        }
        out = run(tiny_corpus, geometry, {"audio": section})
        assert len(read_jsonl(out / "audio/fitted_on.jsonl")) == heard
        codec = registry.load_audio(out / "audio")
        assert (codec.median_scale is None) == (geometry == "24k")
        if heard:
            assert codec.median_scale == pytest.approx(0.1, rel=0.1)
        text = (out / "audio/codec.json").read_text() + (out / "audio/config.json").read_text()
        assert str(tmp_path) not in text and str(encodec_folder(geometry)) not in text


def test_a_large_corpus_is_sampled_by_id_not_by_order(monkeypatch):
    monkeypatch.setattr(fitting, "FIT_ITEMS", 5)
    records = [{"id": str(i)} for i in range(40)]
    chosen = fit_choice(records)
    assert len(chosen) == 5
    assert {r["id"] for r in fit_choice(records[::-1])} == {r["id"] for r in chosen}
