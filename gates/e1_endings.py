"""E1, on the evidence of stage generate.

What it finds: sounds that do not end by themselves, or end far from where the ground truth does, where their length is
left to the model. Golden sets ask for exact lengths and cannot see it.
"""

GATE = {
    "id": "E1",
    "title": "Sounds end by themselves, in time",
    "stage": "generate",
    "blocks": "release",
    "requires": "open_ended",
    "checks": [
        # share of samples at temperature 1 that reach the most length; the interval's ends are one-sided 95 % bounds
        # (Clopper and Pearson, 1934). 300 without a failure decide, and 1,000 with up to four
        {
            "id": "endless",
            "metric": "no_end_share",
            "slices": ["t2a.sampled"],
            "rule": "ci_high_max",
            "message": "too many sounds may never end",
            "more": "raise generate.learned_end.outputs",
            "remedy": (
                "{run}/generate/data/qual has learned_end/ with each output. Where few failed, raise "
                "generate.learned_end.outputs to 1000: up to four of them may. Otherwise raise train.steps, or t2a in "
                "mixture.weights; check that clips of all lengths are in training"
            ),
        },
        {
            "id": "endless_greedy",
            "metric": "no_end_share",
            "slices": ["t2a.greedy"],
            "rule": "max",
            "message": "greedy sounds that never end",
            "remedy": "a greedy loop: draw with generate.temperature 1, or raise train.steps",
        },
        # |1 - median of (frames of the output / frames of the ground truth)|
        {
            "id": "duration",
            "metric": "duration_off",
            "slices": ["t2a.sampled"],
            "rule": "max",
            "message": "sounds are typically longer or shorter than the ground truth",
            "more": "raise generate.learned_end.outputs",
            "remedy": (
                "ends are learned from the end token alone: raise train.steps, or t2a in mixture.weights; where clips "
                "are cut to codecs.audio.clip_seconds, train on whole ones"
            ),
        },
        # mean share of an output's duration that is silence at its end, less that of its ground truth; of the first
        # sample of each prompt
        {
            "id": "silent_tails",
            "metric": "silent_tail_excess",
            "slices": ["t2a.sampled", "t2a.greedy"],
            "rule": "max",
            "message": "sounds end in silence that the ground truth does not have",
            "remedy": "listen to {run}/generate/data/qual; trim silence from the corpus or raise train.steps",
        },
        {
            "id": "ratio",
            "metric": "duration_ratio",
            "slices": ["t2a.sampled", "t2a.greedy"],
            "rule": "min",
            "message": "median duration over that of the ground truth",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
