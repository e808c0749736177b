"""C3, on the evidence of stage text_regression.

What it finds: the model got worse at plain text.
"""

GATE = {
    "id": "C3",
    "title": "The model still knows text",
    "stage": "text_regression",
    "blocks": "release",
    "checks": [
        # NLL on held-out text, final less base, full softmax over all rows; n: tokens. 0.0198 nats = 2 %
        # perplexity
        {
            "id": "nll",
            "metric": "nll_increase_nats",
            "rule": "ci_high_max",
            "message": "text perplexity rose by more than 2 %",
            "more": ("raise text.heldout_sentences and evaluate.text_tokens, or give a longer text.heldout_file"),
            "remedy": "raise mixture.text_replay or text in train.loss.task_weights, or lower train.lr.lora",
        },
        # base NLL less unigram NLL on the same tokens: a base that knows nothing cannot forget
        {
            "id": "base",
            "metric": "base_minus_unigram_nats",
            "rule": "ci_high_below",
            "on_fail": "cannot_decide",
            "voids": ["nll"],
            "message": "the base model is no better than a unigram on this text",
            "more": ("raise text.heldout_sentences and evaluate.text_tokens, or give a longer text.heldout_file"),
            "remedy": (
                "give a pretrained model (base.kind and base.path) or raise base.pretrain.steps; or the "
                "text of text.heldout_file is not in the base's language"
            ),
        },
        # rows of the vocabulary that the softmax left out
        {
            "id": "full_softmax",
            "metric": "softmax_rows_missing",
            "rule": "max",
            "on_fail": "cannot_decide",
            "voids": ["nll"],
            "message": "the text loss did not use the whole vocabulary",
            "remedy": (
                "delete {run}/text_regression and run doit; if it comes back, run `pytest tests/evaluate -k text`"
            ),
        },
        # held-out lines that are captions of the corpus
        {
            "id": "not_captions",
            "metric": "caption_lines_in_heldout",
            "rule": "max",
            "on_fail": "cannot_decide",
            "voids": ["nll"],
            "message": "the held-out text holds captions",
            "remedy": "take them out of text.heldout_file, or give other text there",
        },
        # share of held-out lines that are in the text of replay and pretraining
        {
            "id": "not_trained",
            "metric": "trained_share_of_heldout",
            "rule": "max",
            "on_fail": "cannot_decide",
            "voids": ["nll"],
            "message": "the held-out text is trained on",
            "remedy": "give a text.heldout_file that shares no lines with text.replay_file",
        },
        # share of held-out lines of which 70 % of the words lie in runs of 8 words that are trained on; the
        # generated text is made of a few templates, so there it says nothing
        {
            "id": "not_copied",
            "metric": "copied_share_of_heldout",
            "rule": "max",
            "on_fail": "cannot_decide",
            "voids": ["nll"],
            "requires": "heldout_file",
            "message": "the held-out text is trained on in other lines",
            "remedy": "give a text.heldout_file from other documents than text.replay_file",
        },
    ],
}

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from mmpt.build.gate_script import main

    raise SystemExit(main(__file__))
