"""B1, on the evidence of stage train.

What it finds: the emit losses do not beat the unigram or do not fall, or the read losses rise.
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
            "message": "the loss hardly fell since the ramp's end",
            "remedy": "raise train.steps or train.lr.lora; the loss curves are in {run}/report/index.html",
        },
        # final test loss / test loss at the ramp's end - 1
        {
            "id": "read_holds",
            "metric": "loss_rise_share",
            "slices": ["a2t", "i2t"],
            "rule": "max",
            "message": "reading got worse while the model learned to emit",
            "remedy": (
                "raise a2t and i2t in mixture.weights or train.loss.task_weights, or lower train.lr.lora"
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
