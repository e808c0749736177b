"""File systems that behave otherwise, by errors put in at the system call.

Real here: ext4, tmpfs, and overlayfs where the test may mount it. Errors of NFS, CIFS, Lustre, FUSE and of full and
read-only ones are injected.
"""

import errno
import fcntl
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mmpt.build import runner, tasks
from mmpt.build.display import Display
from mmpt.store import atomic, lock
from mmpt.store.atomic import atomic_write, publish_folder
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.scan import scan
from mmpt.store.stat_cache import StatCache

REPO = Path(__file__).resolve().parents[2]


def failing(monkeypatch, module, name, code, when=lambda *args: True):
    """The system call `name` fails with `code` where `when` of its arguments says so."""
    real, calls = getattr(module, name), []

    def call(*args, **kwargs):
        if when(*args):
            calls.append(args)
            raise OSError(code, os.strerror(code), *map(str, args[:1]))
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, call)
    return calls


def tree(folder, text):
    folder.mkdir(parents=True)
    (folder / "f").write_text(text)
    return folder


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM])
def test_publishing_needs_no_exchange_of_names(tmp_path, monkeypatch, code):
    class Libc:
        def renameat2(self, *args):
            return -1

    monkeypatch.setattr(atomic, "_libc", Libc)
    monkeypatch.setattr(atomic.ctypes, "get_errno", lambda: code)
    old, new = tree(tmp_path / "a" / "data", "old"), tree(tmp_path / "staging" / "x", "new")
    publish_folder(new, old)
    assert (old / "f").read_text() == "new" and not list((tmp_path / "staging").iterdir())


def test_publishing_over_a_folder_that_cannot_be_renamed(tmp_path, monkeypatch):
    """A folder of a lower layer of overlayfs: every rename of it is EXDEV."""
    old, new = tree(tmp_path / "data", "old"), tree(tmp_path / "staging" / "x", "new")
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    calls = failing(monkeypatch, os, "rename", errno.EXDEV, lambda source, target: Path(source) == old)
    publish_folder(new, old)
    assert calls and (old / "f").read_text() == "new"


def test_publishing_on_a_real_overlay(tmp_path):
    """The folder lies in an image's layer, as artifacts baked into a container do."""
    script = f"""
set -e
mkdir -p {tmp_path}/low/art/data {tmp_path}/up {tmp_path}/work {tmp_path}/on
echo old > {tmp_path}/low/art/data/f
mount -t tmpfs none {tmp_path}/up && mkdir {tmp_path}/up/u {tmp_path}/up/w
layers=lowerdir={tmp_path}/low,upperdir={tmp_path}/up/u,workdir={tmp_path}/up/w
mount -t overlay overlay -o $layers {tmp_path}/on || exit 77
mkdir -p {tmp_path}/on/art/.staging/x && echo new > {tmp_path}/on/art/.staging/x/f
{sys.executable} -c "from pathlib import Path; from mmpt.store.atomic import publish_folder
publish_folder(Path('{tmp_path}/on/art/.staging/x'), Path('{tmp_path}/on/art/data'))"
cat {tmp_path}/on/art/data/f
"""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("overlayfs cannot be mounted here")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "new\n"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_fsync_is_written_to(tmp_path, monkeypatch, code):
    failing(monkeypatch, os, "fsync", code)
    atomic_write(tmp_path / "f", b"x")
    publish_folder(tree(tmp_path / "s", "x"), tmp_path / "t")
    assert (tmp_path / "f").read_bytes() == b"x" and (tmp_path / "t" / "f").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, code, call):
    atomic_write(tmp_path / "f", b"old")
    failing(monkeypatch, os, call, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        atomic_write(tmp_path / "f", b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_in_a_line(tmp_path, monkeypatch, code):
    failing(monkeypatch, fcntl, "flock", code)
    with pytest.raises(UserError, match="the file system has no file locks"), lock.exclusive(tmp_path / "l", "me"):
        pytest.fail("held")


SOCKET = """
import tempfile
from multiprocessing.connection import Listener
from mmpt.build.runner import _short_socket_folder
_short_socket_folder()
Listener(family="AF_UNIX").close()
print(tempfile.gettempdir())
"""


def test_a_long_folder_for_temporary_files_holds_everything_but_sockets(tmp_path):
    """TMPDIR on a cluster's scratch disk; the fork server listens on a socket, whose path has 107 bytes at most."""
    scratch = tmp_path / ("scratch" * 14)
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", SOCKET], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{scratch}\n"), done.stderr


def test_no_short_folder_for_sockets_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("scratch" * 14)))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"TMPDIR: the folder .* too long a name for a socket; .* shorter folder"):
        runner._short_socket_folder()


def test_no_folder_for_temporary_files_is_said_in_a_line(monkeypatch):
    def nowhere():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(UserError, match="TMPDIR: no folder for temporary files can be written; .*'/tmp'.*; set it to"):
        runner._short_socket_folder()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UserError("no folder for sockets", where="TMPDIR"), "refused", 2),
        (OSError(errno.EIO, "Input/output error", "decision.json"), "disk", 2),
        (OSError(errno.EBUSY, "Device or resource busy", "drawn.json"), "disk", 2),
    ],
)
def test_what_fails_before_a_stages_process_is_one_line(error, status, code):
    """The fork server's sockets, the decision that is withdrawn: doit printed a traceback and went on."""

    def fails(*args):
        raise error

    out = io.StringIO()
    run = tasks.Run(display=Display(out))
    failed = tasks._in_turn(run, fails, None, "S1")
    assert run.failed == {"gate:S1": status} and run.exit_code == code and not failed.report
    assert (
        out.getvalue().startswith("gate:S1") and "Traceback" not in out.getvalue() and out.getvalue().count("\n") == 1
    )


def test_a_fault_of_ours_keeps_its_traceback():
    def fails(*args):
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    with pytest.raises(FileNotFoundError):
        tasks._in_turn(tasks.Run(), fails, None, "S1")


def odd_folder(root):
    """What lies in a folder that somebody unzipped, mounted and worked in."""
    root.mkdir()
    (root / "a.png").write_bytes(b"x")
    os.mkfifo(root / "pipe")
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(root / "socket"))
    (root / "nothing").symlink_to("/nowhere/at/all")
    (root / "self").symlink_to(root / "self")
    open(os.fsencode(root) + b"/caf\xe9.txt", "wb").close()
    os.mkdir(os.fsencode(root) + b"/b\xff")
    (root / ("n" * 255)).write_bytes(b"long")
    (root / "new\nline").write_bytes(b"odd")
    return root


def test_nothing_in_a_source_folder_hangs_or_breaks_its_digest(tmp_path):
    root = odd_folder(tmp_path / "src")
    assert set(scan(root)) == {"a.png", "n" * 255, "new\nline"}
    assert len(Manifest.of(root).entries) == 3
    assert StatCache(tmp_path / "c.json").folder_digest(root) == StatCache().folder_digest(root)


def test_a_folder_that_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    root = tree(tmp_path / "src", "x")
    tree(root / "secret", "y")
    failing(monkeypatch, os, "scandir", errno.EACCES, lambda path: str(path).endswith("secret"))
    assert set(scan(root)) == {"f"}
    failing(monkeypatch, os, "scandir", errno.EACCES)
    with pytest.raises(PermissionError):
        scan(root)


def test_a_folder_that_is_not_one_of_files_is_named(tmp_path, monkeypatch):
    root = tree(tmp_path / "src", "x")
    tree(root / "task", "y")
    failing(monkeypatch, os, "scandir", errno.EINVAL, lambda path: str(path).endswith("task"))
    with pytest.raises(UserError, match="task: this folder cannot be listed; found Invalid argument") as told:
        scan(root)
    assert told.value.exit_code == 2


def test_a_disk_that_fails_below_a_source_is_not_passed_over(tmp_path, monkeypatch):
    root = tree(tmp_path / "src", "x")
    tree(root / "inner", "y")
    failing(monkeypatch, os, "scandir", errno.ESTALE, lambda path: str(path).endswith("inner"))
    with pytest.raises(OSError, match="Stale"):
        scan(root)
