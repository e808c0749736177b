"""The decoding benchmark: all peers give the same ids, or it stops; its numbers and its table are of them."""

import pytest
import torch

from mmpt.bench import generate, generate_peers
from mmpt.bench.generate import GenerateSettings

SMALL = GenerateSettings(
    hidden=64,
    layers=1,
    items=3,
    text_items=3,
    batch=2,
    frames=2,
    end_scale=3.0,
    rounds=2,
    singles=1,
    threads=1,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    with generate_peers.opened(SMALL.shape, torch.float32, "cpu", SMALL.end_scale, folder) as opened:
        yield opened


def test_all_peers_decode_the_same_ids(models):
    todo = generate_peers.work(models.space, "t2a", SMALL.items, SMALL.frames, SMALL.batch)
    case = generate.measure(models, todo, SMALL, "float32", "cpu")
    assert set(case["peers"]) == set(case["same_ids"]) == set(generate_peers.peers("cpu", "float32"))
    for name, same in case["same_ids"].items():
        assert same["same"] == same["of"] == (1 if "batch 1" in name else 3)
        one = case["peers"][name]
        assert one["runs"] == 2 and one["p10"] <= one["median"] <= one["p90"]
    assert case["tokens"] == 24
    assert all(name in generate.table(case) for name in case["peers"])


def test_other_ids_end_the_benchmark(models, monkeypatch):
    todo = generate_peers.work(models.space, "t2i", 1, SMALL.frames, 1)
    wrong = {"mmpt": generate_peers.ours, "transformers, wrong": lambda models, todo: [[1]]}
    monkeypatch.setattr(generate, "peers", lambda device, dtype: wrong)
    with pytest.raises(RuntimeError, match="transformers, wrong gives other ids than mmpt in 1 of 1"):
        generate.agree(models, todo, "float32", generate.peers("cpu", "float32"), 1)
    assert (
        generate.agree(models, todo, "bfloat16", generate.peers("cpu", "bfloat16"), 1)["same_ids"][
            "transformers, wrong"
        ]["same"]
        == 0
    )


def test_cases_of_the_same_settings_are_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(generate.record, "RESULTS", tmp_path)
    path = generate.record.write("generate-cpu", "cpu", {"setting": 1, "cases": ["a case"]})
    assert generate._so_far(path, {"setting": 1}) == ["a case"]
    assert generate._so_far(path, {"setting": 2}) == []
    assert generate._so_far(tmp_path / "other.json", {"setting": 1}) == []
