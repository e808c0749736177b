"""Where the modules that are compiled from csrc are kept: MMPT_CACHE, else the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from mmpt.store.errors import UserError

MODULE = "mmpt_kernels"


def cache_folder() -> Path:
    """The folder; it need not be there."""
    root = os.environ.get("MMPT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmpt"
    return Path(root) / "kernels"


def require_cache() -> None:
    """Refuse a cache that holds no module and cannot take one.

    Raises:
        UserError: naming MMPT_CACHE.
    """
    folder = cache_folder()
    if next(folder.glob(f"*/{MODULE}.so"), None) is not None:  # an image may bring it, in a layer that is read-only
        return
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise cache_refused(folder, f"{there} may not be written")


def cache_refused(folder: object, found: object) -> UserError:
    """The error for a cache that cannot be written."""
    return UserError(
        "the folder of compiled modules cannot be written",
        where=folder,
        found=found,
        fix="set MMPT_CACHE to a folder that can",
    )
