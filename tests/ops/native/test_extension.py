"""The build of csrc: what makes it another build, and what a user is told when it cannot be made."""

import shutil
from pathlib import Path

import pytest

from mmpt.ops import extension, native
from mmpt.store.errors import UserError

GOOD = '#include <pybind11/pybind11.h>\nPYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.attr("answer") = 42; }\n'


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A csrc of one small file, and a cache of its own."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "bindings.cpp").write_text(GOOD)
    monkeypatch.setattr(extension, "SOURCES", folder)
    monkeypatch.setenv("MMPT_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_build_is_named_by_its_content_its_flags_and_its_headers(sources):
    first = extension.plan()
    assert extension.plan() == first
    assert extension.plan(("-O0",)).digest != first.digest
    (sources / "part.h").write_text("// a header")
    assert extension.plan().digest != first.digest
    (sources / "part.h").unlink()
    assert extension.plan().digest == first.digest


def test_the_kernels_run_on_torchs_threads():
    maps = Path("/proc/self/maps").read_text()
    assert native.kernels.threads
    assert len({line.split()[-1] for line in maps.splitlines() if "libgomp" in line}) == 1


def test_cuda_sources_belong_only_to_a_build_with_cuda(sources, monkeypatch):
    for name in ("op.cu", "ops_cuda.cpp"):
        (sources / name).write_text("")
    monkeypatch.setattr(extension, "_cuda_version", lambda: None)
    assert [p.name for p in extension.plan().sources] == ["bindings.cpp"]
    monkeypatch.setattr(extension, "_cuda_version", lambda: "13.0")
    assert [p.name for p in extension.plan().sources] == ["bindings.cpp", "op.cu", "ops_cuda.cpp"]


def test_a_module_is_built_once_and_found_again(sources):
    build = extension.plan(("-O0",))
    path = extension.module_path(build)
    extension.compile_into(path, build)
    written = path.stat().st_mtime_ns
    extension.compile_into(path, build)
    assert path.stat().st_mtime_ns == written
    assert [p.name for p in path.parent.parent.iterdir() if p.is_dir()] == [build.digest[:24]]


def test_a_source_that_does_not_compile_is_told_with_the_compilers_line_and_leaves_nothing(sources):
    (sources / "bindings.cpp").write_text("int main() { return nonsense; }\n")
    build = extension.plan()
    path = extension.module_path(build)
    with pytest.raises(UserError, match="nonsense.*ops.backend: reference") as error:
        extension.compile_into(path, build)
    assert "bindings.cpp:1" in str(error.value) and "\n" not in str(error.value)
    assert not [p for p in path.parent.parent.iterdir() if p.is_dir()]


def test_no_compiler_is_a_line_with_the_remedy(sources, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="no C.. compiler.*install g.. 11.*ops.backend: reference"):
        extension.plan()
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(UserError, match="/no/such/compiler"):
        extension.plan()


def test_ninja_beside_an_unactivated_python_is_found(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert str(extension.Path(extension.sys.executable).parent) in extension._path_with_ninja()
