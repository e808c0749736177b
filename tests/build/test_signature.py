"""A signature over the release, its evidence and its verdicts: any edit, file more or file less breaks it."""

import shutil

import pytest

from mmpt.build import signature
from mmpt.store.errors import UserError
from tests.report.sample_run import make_run

pytest.importorskip("model_signing.signing", reason='pip install "mmpt[sign]" brings it')
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")


def write_keys(folder, name, password=None):
    """(private, public) key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(pem, pkcs8, hidden))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a finished run with a release, private key, public key)."""
    folder = tmp_path_factory.mktemp("signed")
    make_run(folder / "smoke", items=1)
    (folder / "smoke" / "release").mkdir()
    (folder / "smoke" / "release" / "RELEASE.json").write_text("{}")
    (folder / "smoke" / "release" / "adapter.safetensors").write_bytes(b"rows")
    private, public = write_keys(folder, "key")
    assert signature.sign(folder / "smoke", private, None) == len(signature.covered(folder / "smoke")) > 20
    return folder / "smoke", private, public


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "smoke")


def test_what_was_signed_holds_where_it_was_copied_to(root, made):
    assert signature.wrong(root, made[2]) == []
    assert sorted(path.name for path in root.iterdir()) == sorted(path.name for path in made[0].iterdir())


def edit_release(root):
    (root / "release" / "adapter.safetensors").write_bytes(b"rowz")


def edit_evidence(root):
    path = root / "read_regression" / "data" / "evidence" / "R1.json"
    path.write_text(path.read_text() + " ")


def edit_verdict(root):
    path = root / "gates" / "B3" / "verdict.json"
    path.write_text(path.read_text().replace("GO", "NO"))


def add_to_release(root):
    (root / "release" / "more").write_text("x")


def delete_evidence(root):
    (root / "read_regression" / "data" / "evidence" / "R1.json").unlink()


def edit_decision(root):
    (root / "decision.json").write_text("{}")


@pytest.mark.parametrize(
    "change", [edit_release, edit_evidence, edit_verdict, add_to_release, delete_evidence, edit_decision]
)
def test_any_change_breaks_it(root, made, change):
    change(root)
    (found,) = signature.wrong(root, made[2])
    assert found.startswith("release.sig does not hold: "), found


def test_another_key_does_not_verify(root, tmp_path):
    _, public = write_keys(tmp_path, "other")
    assert signature.wrong(root, public)


def test_a_key_with_a_password(root, tmp_path):
    private, public = write_keys(tmp_path, "locked", b"secret")
    with pytest.raises(UserError, match="this key cannot sign"):
        signature.sign(root, private, None)
    with pytest.raises(UserError, match="this key cannot sign"):
        signature.sign(root, private, "wrong")
    signature.sign(root, private, "secret")
    assert signature.wrong(root, public) == []


def test_no_key_and_no_signature_are_clear_lines(root, made, tmp_path):
    with pytest.raises(UserError, match="this key cannot sign"):
        signature.sign(root, tmp_path / "nothing.pem", None)
    with pytest.raises(UserError, match="no such key"):
        signature.wrong(root, tmp_path / "nothing.pub")
    (root / "release.sig").unlink()
    with pytest.raises(UserError, match="the run is not signed"):
        signature.wrong(root, made[2])


def test_a_run_that_is_not_go_is_not_signed(built, made):
    built.ask_for(99)
    outcome = built.doit("sign", "--key", str(made[1]))
    assert outcome.code == 10 and outcome.text.rstrip().endswith("NO-GO: nothing signed"), outcome


def test_verify_checks_it_with_all_else(built, made):
    outcome = built.doit("verify", "--signature", str(made[2]))
    assert outcome.code == 2 and "the run is not signed" in outcome.text, outcome
    outcome = built.doit("sign", "--key", str(made[1]))
    assert outcome.code == 0 and "files signed: artifacts/smoke/release.sig" in outcome.text, outcome
    outcome = built.doit("verify", "--signature", str(made[2]))
    assert outcome.code == 0 and outcome.text.rstrip().endswith("all as published"), outcome
    verdict = built.root / "gates" / "S1" / "verdict.json"
    verdict.write_text(verdict.read_text() + " ")
    outcome = built.doit("verify", "--signature", str(made[2]))
    assert outcome.code == 1 and "release.sig does not hold" in outcome.text, outcome
