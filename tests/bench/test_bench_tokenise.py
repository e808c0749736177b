"""The tokenising benchmark: both ways give the same tokens, and the numbers are of them."""

import pytest

from mmpt.bench import tokenise
from mmpt.bench.tokenise import TokeniseSettings, measure
from mmpt.shards.encode import Failed


@pytest.mark.parametrize("codec", ["melrvq", "patchvq"])
def test_both_ways_give_the_same_tokens(tmp_path, codec):
    setting = TokeniseSettings(clips=6, seconds=0.5, batch=4, rounds=2, threads=2, device="cpu")
    result = measure(codec, setting, tmp_path)
    assert result["tokens"] > 0 and result["tokens_that_differ"] == 0
    assert [len(found) for found in result["seconds"].values()] == [2, 2]
    speed = result["clips_per_second"]
    assert speed["one"] == 6 / min(result["seconds"]["one"]) and result["speedup"] == speed["batched"] / speed["one"]
    assert codec in tokenise.line(result)


def test_a_record_that_fails_ends_the_benchmark():
    with pytest.raises(RuntimeError, match="2 records were not encoded"):
        tokenise._compared([Failed("x")], [Failed("x")])
