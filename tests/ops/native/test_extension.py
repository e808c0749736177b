"""The build of csrc: what makes it another build, and the message when it cannot be made."""

import errno
import importlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from mmpt.ops import extension, native, toolkit
from mmpt.stages.extension import extension as build_extension
from mmpt.store import programs
from mmpt.store.errors import UserError
from mmpt.store.stage import SliceView, StageContext

GOOD = "int answer() { return 42; }\n"  # a header of torch or pybind11 would take ten seconds


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
    monkeypatch.setattr(extension, "_cuda_version", lambda: None)
    without = extension.plan()
    for name in ("op.cu", "op.cuh", "ops_cuda.cpp"):
        (sources / name).write_text("")
    assert extension.plan() == without and [p.name for p in without.sources] == ["bindings.cpp"]
    monkeypatch.setattr(extension, "_cuda_version", lambda: "13.0")
    assert [p.name for p in extension.plan().sources] == ["bindings.cpp", "op.cu", "ops_cuda.cpp"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENAMETOOLONG])
def test_a_cache_that_cannot_be_written_is_said_before_anything_is_compiled(sources, monkeypatch, code):
    """A container's HOME=/, a read-only mount: the error comes from the system call. `doit plan` asks, too."""

    def refuse(path, *_):
        raise OSError(code, os.strerror(code), str(path))

    build = extension.plan()
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(
        UserError, match=f"compiled modules cannot be written; found {os.strerror(code)}; set MMPT_CACHE"
    ):
        extension.compile_into(extension.module_path(build), build)


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


def install_toolkit(folder, release="13.0", runs="exit 0"):
    """A toolkit of `release`: an nvcc that says so, the header, the library. Returns the folder."""
    for part in ("bin", "include", "lib64"):
        (folder / part).mkdir(parents=True)
    (folder / "include" / "cuda_runtime.h").write_text("")
    (folder / "lib64" / "libcudart.so").write_text("")
    program(
        folder / "bin" / "nvcc",
        f"""
        case $1 in
          --version) echo "Build cuda_{release}.r{release}/compiler.1" ;;
          --dryrun) echo "#\\$ _HERE_={folder}/bin" >&2 ;;
          *) {runs} ;;
        esac""",
    )
    return folder


def program(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


@pytest.fixture
def cuda_machine(tmp_path, monkeypatch):
    """torch as on a machine with two H100 and the toolkit of its CUDA version; returns the toolkit's folder."""
    for name in ("TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card: (9, 0))
    programs.version.cache_clear()
    folder = install_toolkit(tmp_path / "toolkit")
    monkeypatch.setenv("CUDA_HOME", str(folder))
    yield folder
    programs.version.cache_clear()


def test_another_kind_of_gpu_or_list_of_architectures_is_another_build(sources, cuda_machine, monkeypatch):
    hopper = extension.plan()
    assert hopper.cuda == "Build cuda_13.0.r13.0/compiler.1" and extension.plan() == hopper
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card: (8, 0))
    ampere = extension.plan()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0+PTX")
    assert len({hopper.digest, ampere.digest, extension.plan().digest}) == 3


@pytest.mark.parametrize(
    "what,value,found",
    [
        (("torch.version", "cuda"), None, "built without CUDA"),
        (("torch.cuda", "is_available"), lambda: False, "no GPU that torch can use"),
        (("mmpt.store.programs", "nvcc"), lambda: None, "no nvcc below CUDA_HOME"),
    ],
)
def test_a_profile_on_cuda_is_told_what_is_missing(sources, cuda_machine, monkeypatch, tmp_path, what, value, found):
    monkeypatch.setattr(importlib.import_module(what[0]), what[1], value)
    assert extension.plan().cuda is None
    profile = SliceView({"ops": {"backend": "auto"}}, ("ops.backend",), "extension")
    context = StageContext(
        "extension", profile, {}, tmp_path, tmp_path, seed=0, threads=1, device="cuda", dtype="bfloat16"
    )
    with pytest.raises(UserError, match=f"{found}.*ops.backend: reference"):
        build_extension(context)


def test_a_build_needs_no_gpu_where_its_architectures_are_named(sources, cuda_machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "TORCH_CUDA_ARCH_LIST" in toolkit.obstacle()[1] and extension.plan().cuda is None
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert toolkit.obstacle() is None and extension.plan().cuda


def test_a_toolkit_that_does_not_fit_is_one_line_with_both_versions(cuda_machine, tmp_path, monkeypatch):
    (cuda_machine / "lib64" / "libcudart.so").unlink()
    found, fix = toolkit.obstacle()
    assert "no libcudart.so of CUDA 13.0" in found and "CUDA 13.0" in fix
    monkeypatch.setenv("CUDA_HOME", str(install_toolkit(tmp_path / "older", "12.4")))
    programs.version.cache_clear()
    found, fix = toolkit.obstacle()
    assert "of CUDA 12.4" in found and "is built with CUDA 13.0" in found and "install the toolkit of CUDA 13.0" in fix
    program(tmp_path / "older" / "bin" / "nvcc", "echo 'nvcc fatal   : no license' >&2; exit 1")
    programs.version.cache_clear()
    assert "nvcc fatal   : no license" in toolkit.obstacle()[0]


def test_the_toolkit_of_a_script_or_a_link_is_that_of_the_nvcc_behind_it(cuda_machine, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(programs, "TOOLKIT", str(tmp_path / "none"))
    program(tmp_path / "script" / "bin" / "nvcc", f'exec {cuda_machine}/bin/nvcc "$@"')
    (tmp_path / "link" / "bin").mkdir(parents=True)
    (tmp_path / "link" / "bin" / "nvcc").symlink_to(cuda_machine / "bin" / "nvcc")
    for place in ("script", "link"):
        monkeypatch.setenv("PATH", f"{tmp_path}/{place}/bin:/usr/bin:/bin")
        programs.version.cache_clear()
        kit = toolkit.find()
        assert (kit.nvcc, kit.home, kit.release) == (f"{tmp_path}/{place}/bin/nvcc", cuda_machine, "13.0")
        monkeypatch.setattr(extension, "_path_with_ninja", lambda: "")
        variables = extension.environment(extension.plan())
        assert variables["CUDA_HOME"] == str(cuda_machine) and variables["PYTORCH_NVCC"] == kit.nvcc


def test_the_cause_is_told_whichever_program_failed():
    for line in (
        "nvcc fatal   : Unsupported gpu architecture",
        "a.cu(78): error: no instance",
        "/usr/bin/ld: cannot find -lcudart",
    ):
        assert extension.telling(f"[1/2] nvcc ..\n{line}\nninja: build stopped") == [line]


def test_a_library_that_is_missing_is_not_cured_by_another_build(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    said = "libcudart.so.12: cannot open shared object file: No such file or directory"
    assert "delete" not in extension._remedy_of_loading(said) and "CUDA 13.0" in extension._remedy_of_loading(said)


def test_a_call_on_cuda_of_a_module_without_it_says_why():
    operation, cuda = torch.ops.mmpt.sample_logits.default, torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    if native.kernels.cuda:
        pytest.skip("this module is compiled for CUDA")
    with pytest.raises(UserError, match="compiled for the CPU alone; found .*; .*ops.backend: reference"):
        operation.redispatch(cuda, torch.zeros(1, 4), *native._parameters(0, 4, None, 0.0, 0, 1.0, 0, 0, None))


def test_nvcc_is_looked_for_where_torch_looks(tmp_path, monkeypatch):
    def install(folder):
        path = tmp_path / folder / "bin" / "nvcc"
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    monkeypatch.setattr(programs, "TOOLKIT", str(tmp_path / "toolkit"))
    assert programs.nvcc() is None
    for folder in ("toolkit", "path", "other", "home"):  # each comes before the ones so far
        path = install(folder)
        for name, its in (("CUDA_PATH", "other"), ("CUDA_HOME", "home")):
            if folder == its:
                monkeypatch.setenv(name, str(tmp_path / folder))
        assert programs.nvcc() == path
