"""Builds csrc into one extension module, once for each content, and loads it.

The cache key is the digest of the sources, the flags, the versions of torch, Python and the compiler, and the kinds of
GPU that are compiled for: a changed kernel is another folder, an unchanged one loads in milliseconds. CUDA sources are
added where toolkit.obstacle() finds none. A build happens in a folder of its own and is moved into place when whole, so
a killed build leaves nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TextIO

import torch

from mmpt.ops import toolkit
from mmpt.store import programs
from mmpt.store.compiled_modules import MODULE, cache_folder, cache_refused
from mmpt.store.errors import UserError
from mmpt.store.resources import shared

SOURCES = shared("csrc")
FLAGS = ("-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-Wno-psabi")
CUDA_FLAGS = ("-O3", "-lineinfo")
CUDA_SUFFIXES = (".cu", ".cuh")
REMEDY = f"install g++ 11 or newer and ninja (pip install ninja), {toolkit.OR_REFERENCE}"
# What names the cause in the output of ninja, g++, nvcc ("nvcc fatal   : ..") and the linker.
TELLING = re.compile(r"[Ee]rror:|\bfatal\b|cannot find")


@dataclass(frozen=True)
class Plan:
    """What one build consists of; two equal plans give the same module."""

    sources: tuple[Path, ...]
    compiler: str
    version: str
    flags: tuple[str, ...]
    cuda: str | None
    digest: str


def plan(extra_flags: tuple[str, ...] = ()) -> Plan:
    """The build that fits this machine. Raises UserError where no C++ compiler is."""
    compiler = programs.cxx()
    if compiler is None:
        found = f"CXX={os.environ['CXX']}" if os.environ.get("CXX") else "none of g++, c++, clang++ on PATH"
        raise UserError("no C++ compiler for csrc", found=found, fix=REMEDY)
    cuda = _cuda_version()
    files = [p for p in sorted(SOURCES.iterdir()) if p.is_file() and (cuda or not _is_for_cuda(p))]
    sources = tuple(path for path in files if path.suffix in (".cpp", ".cu"))
    version = programs.version("c++")
    flags = (*host_flags(version), *(("-DMMPT_CUDA",) if cuda else ()), *extra_flags)
    key = {
        "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        "flags": [flags, CUDA_FLAGS if cuda else ()],
        "compiler": version,
        "torch": torch.__version__,
        "python": sysconfig.get_config_var("SOABI") or platform.python_version(),
        "cuda": [cuda, toolkit.architectures()] if cuda else None,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Plan(sources, compiler, version, flags, cuda, digest)


def _is_for_cuda(path: Path) -> bool:
    return path.suffix in CUDA_SUFFIXES or path.stem.endswith("_cuda")


def host_flags(version: str) -> tuple[str, ...]:
    """Flags of every .cpp file, for the C++ compiler that names itself `version`."""
    # at::parallel_for lives in torch's headers: without this flag it runs on one thread and says nothing. The runtime
    # is not linked, so that the one torch has loaded is used and no second pool of threads appears; clang has another.
    return (*FLAGS, *(() if "clang" in version else ("-fopenmp",)))


def module_path(build: Plan) -> Path:
    """Where the finished module of a plan lies."""
    return cache_folder() / build.digest[:24] / f"{MODULE}.so"


_loaded: tuple[ModuleType, Path] | None = None


def load(path: Path | None = None) -> ModuleType:
    """The extension module; loading it registers torch.ops.mmpt. A process holds one: a second call returns it.

    path: a module that is built; default: the one of `plan`, built first if its cache is empty.
    Raises UserError where no compiler is, with the compiler's lines where the build fails, and where it does not load.
    """
    global _loaded
    if _loaded is not None:
        if path is not None and path != _loaded[1] and path.read_bytes() != _loaded[1].read_bytes():
            raise RuntimeError(f"this process runs {_loaded[1]}, it cannot load {path} too")
        return _loaded[0]
    if path is None:
        build = plan()
        path = module_path(build)
        if not path.exists():
            compile_into(path, build)
    try:
        _loaded = import_module(path), path
    except ImportError as error:
        raise UserError(
            "the compiled module does not load",
            where=str(path),
            found=str(error).splitlines()[0],
            expected=f"a module for torch {torch.__version__} (CUDA {torch.version.cuda or 'none'})",
            fix=_remedy_of_loading(str(error)),
        ) from error
    return _loaded[0]


def _remedy_of_loading(said: str) -> str:
    """What to do about a module that does not load: another build would miss the same library."""
    missing = re.match(r"(lib\S+): cannot open shared object", said)
    if missing is None:
        return "delete it and run again: it is built for the torch and the Python that are here"
    if "cudart" in missing[1]:
        return f"install the runtime library of CUDA {torch.version.cuda}, which this torch was built with"
    return f"install what holds {missing[1]}, or put its folder on LD_LIBRARY_PATH"


def import_module(path: Path) -> ModuleType:
    """Loads a built module; a process can hold one, since its operations are registered once."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_into(path: Path, build: Plan) -> None:
    """Builds a plan's module at `path`; one process builds, others wait for it and find it done."""
    with _lock_file(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        folder = Path(tempfile.mkdtemp(prefix=".building-", dir=path.parent.parent))
        try:
            built = _compile(folder, build)
            path.parent.mkdir(exist_ok=True)
            os.replace(built, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _lock_file(path: Path) -> TextIO:
    """The open lock beside a module's folder, which is made. UserError: the cache may not be written."""
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        return open(path.parent.with_suffix(".lock"), "w")
    except OSError as error:
        raise cache_refused(error.filename or path.parent.parent, error.strerror) from None


def load_arguments(build: Plan, folder: Path) -> dict:
    """Arguments of torch.utils.cpp_extension.load that build a plan in `folder`: the one place that says its flags."""
    return {
        "name": MODULE,
        "sources": [str(p) for p in build.sources],
        "extra_cflags": list(build.flags),
        "extra_ldflags": [flag for flag in build.flags if flag.startswith("-fsanitize")],
        "extra_cuda_cflags": list(CUDA_FLAGS),
        "build_directory": str(folder),
        "with_cuda": build.cuda is not None,
        "is_python_module": False,
        "verbose": True,
    }


def environment(build: Plan) -> dict[str, str]:
    """Variables under which torch builds a plan: it looks for nvcc elsewhere first, and would take another one."""
    found = dict(os.environ, CXX=build.compiler, PATH=_path_with_ninja())
    if build.cuda and (kit := toolkit.find()):
        found |= {"CUDA_HOME": str(kit.home), "PYTORCH_NVCC": os.environ.get("PYTORCH_NVCC", kit.nvcc)}
    return found


def run_load(arguments: dict, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """torch.utils.cpp_extension.load in a child process, with all that ninja and the compilers say."""
    # A CPU build of torch, with which .ci/spills compiles CUDA sources, does not look for CUDA_HOME itself.
    code = (
        "import json, os, sys; from torch.utils import cpp_extension as torch_; "
        "torch_.CUDA_HOME = torch_.CUDA_HOME or os.environ.get('CUDA_HOME'); torch_.load(**json.loads(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables, check=False
    )


def _compile(folder: Path, build: Plan) -> Path:
    """Builds the module in `folder`; what the compilers say is shown only where they fail."""
    done = run_load(load_arguments(build, folder), environment(build))
    built = folder / f"{MODULE}.so"
    if not built.exists():
        raise UserError("csrc does not build", found=" | ".join(telling(done.stdout)), fix=remedy(build))
    return built


def telling(output: str) -> list[str]:
    """The lines of a failed build that say why, three at most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return [line for line in lines if TELLING.search(line)][:3] or lines[-3:]


def remedy(build: Plan) -> str:
    """What to do where a plan does not compile."""
    if build.cuda is None:
        return REMEDY
    return (
        f"csrc needs nvcc of CUDA {torch.version.cuda}, which this torch was built with, and a g++ that it takes; "
        f"found {build.cuda} and {build.version}: install fitting ones, {toolkit.OR_REFERENCE}"
    )


def _path_with_ninja() -> str:
    """PATH, with the folder of pip's ninja where an unactivated environment left it out."""
    folder = Path(sys.executable).parent
    if shutil.which("ninja") is None and not (folder / "ninja").exists():
        raise UserError("ninja is missing, csrc is built with it", fix=REMEDY)
    return os.pathsep.join([os.environ.get("PATH", ""), str(folder)])


def _cuda_version() -> str | None:
    """nvcc's version where the module can be built for CUDA, else None: it is then for the CPU alone."""
    return None if toolkit.obstacle() else programs.version("nvcc")
