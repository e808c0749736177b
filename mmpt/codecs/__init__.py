"""Reading media, and audio and image codecs behind two small protocols: built in, pretrained, or plug-ins.

`create_audio`, `create_image`, `load_audio` and `load_image` of `registry.py` are here, too.
"""

import importlib
from typing import Any

OPENING = ("create_audio", "create_image", "load_audio", "load_image")


def __getattr__(name: str) -> Any:
    """Imported when asked for, and not by an import statement: a stage that reads media has no codec in its code."""
    if name in OPENING:
        return getattr(importlib.import_module(".registry", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
