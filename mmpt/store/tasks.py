"""The four tasks, the two modalities and the three splits, named once for every package."""

from __future__ import annotations

MODALITIES = ("audio", "image")
SPLITS = ("train", "val", "test")
READ_TASKS = ("a2t", "i2t")  # a medium is given, text comes out
EMIT_TASKS = ("t2a", "t2i")  # text is given, a medium comes out
TASKS = (*READ_TASKS, *EMIT_TASKS)
MODALITY_OF = {"a2t": "audio", "i2t": "image", "t2a": "audio", "t2i": "image"}  # of the medium, given or made
