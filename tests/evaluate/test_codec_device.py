"""A run on a GPU has its codecs there too: every stage that opens codecs hands its device on."""

import pytest

from mmpt.codecs import registry
from mmpt.evaluate import trend
from mmpt.evaluate.sets import Codecs
from mmpt.stages.generate import generate
from mmpt.stages.shards import shards


class Opened(Exception):
    pass


@pytest.mark.parametrize("stage", ["generate", "trend", "shards"])
def test_codecs_are_opened_on_the_runs_device(run, tmp_path, monkeypatch, stage):
    def opened(folder, device="none given"):
        raise Opened(device)

    monkeypatch.setattr(Codecs, "open", staticmethod(opened))
    monkeypatch.setattr(registry, "load_audio", opened)
    ctx = run.context(stage, tmp_path)
    ctx.device = "cuda:7"
    body = {"generate": generate, "trend": trend.TrendEvaluator.of, "shards": shards}[stage]
    with pytest.raises(Opened, match="cuda:7"):
        body(ctx)


def test_a_codec_on_cuda_computes_without_tf32(monkeypatch, tmp_path):
    """Stages codecs, shards and shard_audit do not set torch up; cuDNN's default is TF32."""
    import torch

    class Network:
        def __init__(self):
            self.device = "cpu"

        def to(self, device):
            assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic
            self.device = device

        def identity(self):
            return "same"

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(registry, "plugin", lambda name, modality: type("P", (), {"load": lambda folder: Network()}))
    monkeypatch.setattr(registry, "_conforming", lambda codec, modality, name: codec)
    (tmp_path / registry.FILE_NAME).write_text('{"name": "network", "identity": "same"}')
    assert registry.load_image(tmp_path, "cuda:0").device == "cuda:0"
