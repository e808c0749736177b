"""A1, on the evidence of stage preflight.

What it finds: shards, checkpoint and run do not share one token space.
"""

GATE = {
    "id": "A1",
    "title": "One token space everywhere",
    "stage": "preflight",
    "blocks": "train",
    "checks": [
        # number of distinct token-space digests over shards, examples, base, warm-up checkpoint and run
        {
            "id": "digests",
            "metric": "distinct_digests",
            "rule": "equal",
            "message": "shards, checkpoint and run do not share one token space",
            "remedy": (
                "{run}/preflight/data/preflight.json lists what differs (token_space.others): delete the "
                "folders of those stages below {run} and run doit, or import everything with the "
                "token_space.json it was made with"
            ),
        },
        # token_space.json whose .sha256 is not there or does not match by the rule of its own format
        {
            "id": "upstream_sha",
            "metric": "upstream_sha_failures",
            "rule": "max",
            "message": "token_space.sha256 does not match its token_space.json",
            "remedy": (
                "fetch token_space.json and token_space.sha256 again from where they were made, both from "
                "one place; then delete {run}/token_space and run doit"
            ),
        },
        {
            "id": "unmarked",
            "metric": "records_without_digest",
            "rule": "max",
            "on_fail": "cannot_decide",
            "message": "records or checkpoints that name no token space",
            "remedy": (
                "{run}/preflight/data/preflight.json lists them (token_space.unmarked): delete {run}/shards "
                "to tokenise them again, or import them with the token_space.json they were made with"
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
