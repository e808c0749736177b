"""L1, on the evidence of stage ablation.

What it finds: a model that was trained to predict another token than its own (labels shifted twice, or not at all),
and decoding steps that predict otherwise than teacher forcing does (cache, positions).
"""

GATE = {
    "id": "L1",
    "title": "Each position predicts its own token, and decoding agrees",
    "stage": "ablation",
    "blocks": "release",
    "checks": [
        # nats by which the own token of a position costs less than the one so many places further; the shifts by one
        # frame come beside those named here, where a frame has more than two tokens. Backwards, what repetition is
        # worth in the data is taken off (mmpt/evaluate/alignment.py)
        {
            "id": "shift",
            "metric": "shift_margin_nats",
            "slices": [
                *("a2t.-2", "a2t.-1", "a2t.+1", "a2t.+2", "i2t.-2", "i2t.-1", "i2t.+1", "i2t.+2"),
                *("t2a.-2", "t2a.-1", "t2a.+1", "t2a.+2", "t2i.-2", "t2i.-1", "t2i.+1", "t2i.+2"),
            ],
            "each": True,
            "rule": "ci_low_above",
            "message": "a shifted label has no higher loss than the own one",
            "remedy": (
                "{run}/ablation/data/alignment.json has the loss at each shift: the least one says by how many tokens "
                "the labels of training are off; run `pytest tests/tokens tests/train/test_objective.py`"
            ),
        },
        # mean |log(p / q)| over items and tokens, over its tolerance by dtype: p and q are the probabilities of a
        # target's token in a decoding step and under teacher forcing
        {
            "id": "decoding",
            "metric": "decoding_over_tolerance",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "decoding steps give other probabilities than teacher forcing",
            "remedy": "the cache or the positions of decoding are at fault: run `pytest tests/generate`",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
