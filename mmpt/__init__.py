"""mmpt: a verification-gated build of multimodal token training. See README.md; packages import only downwards.

As a library (mmpt/LIBRARY.md): `mmpt.load(folder)`, and the packages `mmpt.ops`, `mmpt.tokens`, `mmpt.codecs` and
`mmpt.generate`. Importing mmpt alone imports nothing else: torch takes seconds.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
PUBLIC = ("codecs", "generate", "ops", "tokens")


# Names are joined here, so that no stage's code is taken to contain the library: see mmpt/build/code.py.
def load(folder: Any, **options: Any) -> Any:
    """The model of a finished run (artifacts/NAME) or of an exported folder; see `mmpt.library.load`."""
    return importlib.import_module(".library", __name__).load(folder, **options)


def __getattr__(name: str) -> Any:
    """The public packages, imported when they are first asked for."""
    if name in PUBLIC:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
