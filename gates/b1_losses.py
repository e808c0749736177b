"""B1, on the evidence of stage train.

What it finds: the emit losses do not beat the unigram, in one half or on the mean, or do not fall; the read losses
rise; training reports losses that a plain forward of the published checkpoint does not give.
"""

GATE = {
    "id": "B1",
    "title": "The emit losses fall and the read losses hold",
    "stage": "train",
    "blocks": "release",
    "checks": [
        # test loss with probabilities renormalised over the allowed range, less the cross-entropy of the
        # train unigram of the same slot, paired by item; the interval is of the mean difference
        {
            "id": "beats_unigram",
            "metric": "loss_minus_unigram_nats",
            "slices": ["t2a", "t2i"],
            "rule": "ci_high_below",
            "message": "the model does not beat the unigram of its codebooks on test",
            "remedy": (
                "where the test loss rose while the training loss fell, the run overfits: see `doit advise`. Otherwise "
                "raise train.steps; if the loss curve in {run}/report/index.html is flat, raise "
                "train.lr.lora and train.lr.embed, or make the codes easier (smaller "
                "codecs.audio.codebook_size or codecs.image.codebook_size)"
            ),
        },
        # 1 - final test loss / test loss at the ramp's end
        {
            "id": "falls",
            "metric": "loss_drop_share",
            "slices": ["t2a", "t2i"],
            "rule": "min",
            "message": "the test loss fell too little since the ramp's end (below 0: it rose)",
            "remedy": (
                "where it rose while the training loss fell, the run overfits: see `doit advise`, and do not train "
                "longer. Otherwise raise train.steps or train.lr.lora; the loss curves are in {run}/report/index.html"
            ),
        },
        # final test loss / test loss at the ramp's end - 1
        {
            "id": "read_holds",
            "metric": "loss_rise_share",
            "slices": ["a2t", "i2t"],
            "rule": "max",
            "message": "reading got worse while the model learned to emit",
            "remedy": ("raise a2t and i2t in mixture.weights or train.loss.task_weights, or lower train.lr.lora"),
        },
        # the same difference over the first and over the second half of each payload: a model that learned one half
        # beats the unigram on the mean
        {
            "id": "halves",
            "metric": "half_minus_unigram_nats",
            "slices": ["t2a.first", "t2a.second", "t2i.first", "t2i.second"],
            "rule": "ci_high_below",
            "message": "half of the payload is no better than the unigram",
            "remedy": (
                "look at that half in the gallery of {run}/report/index.html: does train.loss reach all positions? "
                "Then raise train.steps"
            ),
        },
        # mean |loss that training reports - loss by the independent scorer| of the same test items: the published
        # files, unpacked, with labels of its own. Two fp32 forwards differ by about 1e-5, bf16 by some 1e-3
        {
            "id": "scoring",
            "metric": "scoring_difference_nats",
            "slices": ["a2t", "i2t", "t2a", "t2i"],
            "rule": "max",
            "message": "training reports other losses than a plain forward of the published checkpoint gives",
            "remedy": (
                "labels, packing or the saved adapter are at fault: run `pytest tests/train tests/model "
                "tests/shards/test_packing.py`"
            ),
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
