"""A run on a GPU has its codecs there too: every stage that opens codecs hands its device on."""

import pytest

from mmpt.codecs import registry
from mmpt.evaluate import stages, trend
from mmpt.evaluate.sets import Codecs
from mmpt.shards import stages as shard_stages


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
    body = {"generate": stages.generate, "trend": trend.Watch.of, "shards": shard_stages.shards}[stage]
    with pytest.raises(Opened, match="cuda:7"):
        body(ctx)
