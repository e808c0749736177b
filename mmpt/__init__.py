"""mmpt: a verification-gated build of multimodal token training. See README.md; packages import only downwards."""

__version__ = "0.1.0"
