"""The files beside the package that it needs at run time: schemas/, csrc/, gates/, dodo.py.

In a clone, mmpt/_shared holds links to them; a wheel holds the files themselves in their place.
"""

from __future__ import annotations

from pathlib import Path

SHARED = Path(__file__).resolve().parents[1] / "_shared"


def shared(name: str) -> Path:
    """The folder or file of that name, links resolved.

    Raises:
        FileNotFoundError: it is not there: the package was copied without its data.
    """
    return (SHARED / name).resolve(strict=True)
