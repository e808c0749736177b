"""A signature in the OpenSSF Model Signing format over what a release rests on: artifacts/<profile>/release.sig.

It covers release/, decision.json, every verdict and all evidence, by path and SHA-256: nothing of it is edited, added
or taken away unnoticed. The package model-signing signs and verifies; its own `model_signing verify` checks a copy of
these files without mmpt.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmpt.gating.decision import decision_path
from mmpt.store.errors import UserError

FILE = "release.sig"
STAGING = ".staging"  # what a killed command leaves there is no stray file of the run
COVERED = ("release/**/*", "gates/*/verdict.json", "*/data/evidence/*.json")
INSTALL = 'pip install "mmpt[sign]"'


def covered(root: Path) -> list[Path]:
    """The files that a signature of the run below root covers, relative to it."""
    found = {path for pattern in COVERED for path in root.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(root) for path in {*found, decision_path(root)})


def sign(root: Path, private_key: Path, password: str | None) -> int:
    """Write FILE; how many files it covers.

    Args:
        private_key: PEM of an elliptic key (P-256, P-384 or P-521).

    Raises:
        UserError: no key, a wrong password, or the package is not installed.
    """
    signing = _library("signing")
    with _gathered(root) as (folder, count), tempfile.TemporaryDirectory(dir=root / STAGING) as beside:
        written = Path(beside) / FILE
        try:
            given = None if password is None else password.encode()  # as cryptography takes it, whatever the hint says
            config = signing.Config().use_elliptic_key_signer(private_key=private_key, password=given)
            config.sign(folder, written)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                "this key cannot sign",
                where=private_key,
                found=_line(error),
                expected="PEM of an elliptic private key",
                fix="openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
            ) from None
        written.replace(root / FILE)
    return count


def wrong(root: Path, public_key: Path) -> list[str]:
    """Why the signature of the run below root does not hold; empty if it does.

    Raises:
        UserError: no such key, no signature, or the package is not installed.
    """
    verifying = _library("verifying")
    if not public_key.is_file():
        raise UserError(
            "no such key",
            where=public_key,
            fix="openssl ec -in key.pem -pubout -out key.pub makes it of the private one",
        )
    if not (root / FILE).is_file():
        raise UserError("the run is not signed", where=root.name, expected=FILE, fix="`doit sign --key key.pem`")
    with _gathered(root) as (folder, _):
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(folder, root / FILE)
        except Exception as error:  # of the library: its own, cryptography's, a file that is no signature
            return [f"{FILE} does not hold: {_line(error)}"]
    return []


@contextmanager
def _gathered(root: Path) -> Iterator[tuple[Path, int]]:
    """(a folder with copies of the covered files alone, how many), for as long as the block lasts.

    Copies: a link would be refused, and these files are small but for the adapter.
    """
    (root / STAGING).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root / STAGING) as made:
        folder, files = Path(made) / root.name, covered(root)
        for path in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, folder / path)
        yield folder, len(files)


def _library(module: str) -> Any:
    try:
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise UserError("package model-signing is not installed", found=_line(error), fix=INSTALL) from None
    return getattr(model_signing, module)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
