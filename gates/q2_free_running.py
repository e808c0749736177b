"""Q2, on the evidence of stage scores.

What it finds: duplicates, loops, codebook usage, legal mass, unconstrained validity, end tokens.
"""

ALL = [
    "a2t.greedy",
    "a2t.sampled",
    "i2t.greedy",
    "i2t.sampled",
    "t2a.greedy",
    "t2a.sampled",
    "t2i.greedy",
    "t2i.sampled",
]

GATE = {
    "id": "Q2",
    "title": "Free-running quality",
    "stage": "scores",
    "blocks": "release",
    "checks": [
        # slices <task>.<decoding> outputs equal to that of another prompt
        {
            "id": "duplicates",
            "metric": "duplicate_rate",
            "slices": ["t2a.greedy", "t2a.sampled", "t2i.greedy", "t2i.sampled"],
            "each": True,
            "rule": "max",
            "message": "many prompts give the same output",
            "remedy": ("raise train.steps; if sampled outputs differ, sample with a generate.temperature above 0"),
        },
        # share of sounds with a run of 8 or more equal frames beyond what the ground truth shows
        {
            "id": "loops",
            "metric": "looped_rate",
            "slices": ["t2a.greedy", "t2a.sampled"],
            "rule": "max",
            "message": "sounds that repeat frames",
            "remedy": ("raise train.steps; if sampled outputs do not loop, sample with a generate.temperature above 0"),
        },
        # codes used in the outputs / codes used in the ground truth, mean over codebooks
        {
            "id": "usage",
            "metric": "codebook_usage",
            "slices": ["t2a.greedy", "t2a.sampled", "t2i.greedy", "t2i.sampled"],
            "each": True,
            "rule": "min",
            "message": "few codes are used",
            "remedy": ("raise train.steps; if sampled outputs use more, sample with a generate.temperature above 0"),
        },
        # mean probability inside the allowed range, before masking
        {
            "id": "legal_mass",
            "metric": "legal_mass",
            "slices": ALL,
            "each": True,
            "rule": "min",
            "message": "without the grammar the model would leave its range",
            "remedy": "raise train.steps; train.loss.support: full teaches the model which range is allowed",
        },
        # share of outputs that are valid (range, order, length a whole number of frames) without the grammar
        {
            "id": "unconstrained",
            "metric": "unconstrained_validity_rate",
            "slices": ALL,
            "each": True,
            "rule": "min",
            "message": "most outputs are valid only because of the grammar",
            "remedy": "raise train.steps; train.loss.support: full teaches the model which range is allowed",
        },
        # share of unconstrained outputs that end by themselves
        {
            "id": "ends",
            "metric": "end_token_rate",
            "slices": ALL,
            "each": True,
            "rule": "min",
            "message": "few outputs end by themselves",
            "remedy": "raise train.steps",
        },
        # the same at step 0: what construction hides
        {
            "id": "legal_mass_before",
            "metric": "legal_mass_before",
            "each": True,
            "rule": "min",
            "optional": True,
            "message": "probability inside the range before training",
        },
        {
            "id": "unconstrained_before",
            "metric": "unconstrained_validity_rate_before",
            "each": True,
            "rule": "min",
            "optional": True,
            "message": "valid without the grammar before training",
        },
        # The extremes block; what lies between is quality.
        {
            "id": "one_output",
            "metric": "duplicate_rate",
            "slices": ["t2a.greedy", "t2i.greedy"],
            "rule": "max",
            "message": "nearly all prompts give the same output",
            "remedy": "the prompt does not reach the output: see B3; then raise train.steps",
        },
        # share of outputs that are one frame throughout, where their ground truth is not
        {
            "id": "one_frame",
            "metric": "constant_rate",
            "slices": ["t2a.greedy", "t2i.greedy"],
            "rule": "max",
            "message": "outputs are one code throughout",
            "remedy": "raise train.steps or train.lr.lora, or make the codes easier (smaller codebooks)",
        },
        {
            "id": "all_looped",
            "metric": "looped_rate",
            "slices": ["t2a.greedy"],
            "rule": "max",
            "message": "nearly all sounds repeat a frame",
            "remedy": "raise train.steps",
        },
        {
            "id": "never_valid",
            "metric": "unconstrained_validity_rate",
            "slices": ["a2t.greedy", "i2t.greedy", "t2a.greedy", "t2i.greedy"],
            "rule": "min",
            "message": "without the grammar almost no output is valid",
            "remedy": "train.loss must reach all positions and the end token; raise train.steps",
        },
        {
            "id": "never_ends",
            "metric": "end_token_rate",
            "slices": ["a2t.greedy", "i2t.greedy", "t2a.greedy", "t2i.greedy"],
            "rule": "min",
            "message": "without the grammar almost no output ends",
            "remedy": "train.loss must reach the end token; raise train.steps",
        },
        {
            "id": "outside",
            "metric": "legal_mass",
            "slices": ["a2t.greedy", "i2t.greedy", "t2a.greedy", "t2i.greedy"],
            "rule": "min",
            "message": "the model puts almost no probability inside the allowed range",
            "remedy": "raise train.steps; train.loss.support: full teaches the model which range is allowed",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
