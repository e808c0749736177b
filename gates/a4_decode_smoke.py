"""A4, on the evidence of stage preflight.

What it finds: stored codes do not decode to the rate, channels, length and size that their meta says.
"""

GATE = {
    "id": "A4",
    "title": "Stored codes decode",
    "stage": "preflight",
    "blocks": "train",
    "checks": [
        {
            "id": "decode",
            "metric": "decode_failures",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "stored samples that do not decode",
            "remedy": (
                "{run}/preflight/data/preflight.json has the error of each (decoded): put the codec's "
                "weights where codecs.audio.path or codecs.image.path points, then run doit"
            ),
        },
        # audio: rate, channels, length; image: width and height; read back from the written file
        {
            "id": "form",
            "metric": "decode_form_errors",
            "slices": ["audio", "image"],
            "rule": "max",
            "message": "decoded samples of a wrong rate, channel count, length or size",
            "remedy": (
                "codecs.audio or codecs.image is not what wrote the shards: {run}/preflight/data/decode has "
                "the files; delete {run}/shards and run doit"
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
