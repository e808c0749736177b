"""INDEX.sha256: the published files, so that a missing one is noticed.

    <sha256>  <path>                              as sha256sum writes it, and `sha256sum -c` checks it
    # sha256 of the lines above: <sha256>         to sha256sum a comment

Each file that it names also vouches for itself (a digest of itself, a receipt, a chain), so a file that is newer than
the index, because a run was killed before its end, is not taken for an edited one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmpt.store.atomic import atomic_write
from mmpt.store.digests import Manifest, sha256_bytes
from mmpt.store.errors import Edited, UserError

INDEX = "INDEX.sha256"
SEAL = "# sha256 of the lines above: "


def write_index(root: Path, digests: Mapping[str, str]) -> None:
    """Name the files of ``root``, if that changes anything.

    Args:
        digests: path relative to ``root`` -> sha256.
    """
    text = str(Manifest(tuple(sorted(digests.items()))))
    data = f"{text}{SEAL}{sha256_bytes(text.encode())}\n".encode()
    path = root / INDEX
    if not path.is_file() or path.read_bytes() != data:
        atomic_write(path, data)


def read_index(root: Path) -> dict[str, str]:
    """Path -> sha256.

    Raises:
        UserError: missing, or edited.
    """
    path = root / INDEX
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    text, seal, digest = data.rpartition(SEAL.encode())
    if not seal or digest != f"{sha256_bytes(text)}\n".encode():
        raise Edited("was edited", where=path, expected="the digest in its last line")
    return dict(Manifest.parse(text.decode(), path).entries)
