"""Gate B4 on the files of a codec that tells its frames but not its samples, as a third party's may."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from mmpt.evaluate.emission import Written, artifact_metrics
from mmpt.evaluate.media import write_wav
from mmpt.tokens.stream import Stream


@dataclass(frozen=True)
class Blocks:
    """100 samples per frame."""

    sample_rate: int = 8000
    channels: int = 1
    n_codebooks: int = 2

    def frames(self, samples):
        return -(-samples // 100)


@pytest.mark.parametrize(("samples", "wrong"), [(500, 0), (430, 0), (400, 1), (501, 1)])
def test_a_sound_must_have_the_frames_that_were_asked_for(tmp_path, samples, wrong):
    wave = np.random.default_rng(0).standard_normal((1, samples)) * 0.1
    write_wav(tmp_path / "a.wav", wave, 8000)
    decoder = SimpleNamespace(codecs=SimpleNamespace(audio=Blocks()), space=SimpleNamespace(stream=Stream((0, 1))))
    row = {"id": "a", "path": "a.wav", "target_len": 10}
    written = [Written(4, tmp_path, {("t2a", "greedy"): [row]})]
    found = {m.name: m.value for m in artifact_metrics(decoder, written, {"a": {"rms": 0.1, "clipped": 0.0}})}
    assert found["wrong_form_files"] == wrong and found["missing_files"] == found["unreadable_files"] == 0
