"""S3: shards that do not hold what the codecs say, that do not re-encode alike, or that decode badly."""

from mmpt.gating.script import main

if __name__ == "__main__":
    raise SystemExit(main("S3", __doc__))
