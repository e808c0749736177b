"""Builds csrc into one extension module, once for each content, and loads it.

The cache key is the digest of the sources, the flags, the versions of torch, Python and the compiler, and the kinds of
GPU that are here: a changed kernel is another folder, an unchanged one loads in milliseconds. CUDA sources are added
where torch has CUDA, and a GPU and nvcc are at hand. A build happens in a folder of its own and is moved into place
when whole, so a killed build leaves nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
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

from mmpt.store import programs
from mmpt.store.errors import UserError
from mmpt.store.resources import shared

MODULE = "mmpt_kernels"
SOURCES = shared("csrc")
FLAGS = ("-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-Wno-psabi")
CUDA_FLAGS = ("-O3", "-lineinfo")
REMEDY = "install g++ 11 or newer and ninja (pip install ninja), or choose `ops.backend: reference` in the profile"
CUDA_REMEDY = (
    f"nvcc ({programs.TOOLKIT}, or CUDA_HOME) must be of CUDA {torch.version.cuda}, which this torch was built with, "
    "and take the g++ that is here; or choose `ops.backend: reference` in the profile"
)


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
    kinds = [path for path in sorted(SOURCES.iterdir()) if path.suffix in (".cpp", ".cu")]
    sources = tuple(path for path in kinds if cuda or not (path.suffix == ".cu" or path.stem.endswith("_cuda")))
    version = programs.version("c++")
    # at::parallel_for lives in torch's headers: without this flag it runs on one thread and says nothing. The runtime is
    # not linked, so that the one torch has loaded is used and no second pool of threads appears; clang has another one.
    threads = () if "clang" in version else ("-fopenmp",)
    flags = (*FLAGS, *threads, *(("-DMMPT_CUDA",) if cuda else ()), *extra_flags)
    key = {
        "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(SOURCES.iterdir()) if p.is_file()},
        "flags": [flags, CUDA_FLAGS if cuda else ()],
        "compiler": version,
        "torch": torch.__version__,
        "python": sysconfig.get_config_var("SOABI") or platform.python_version(),
        "cuda": [cuda, _architectures()] if cuda else None,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Plan(sources, compiler, version, flags, cuda, digest)


def module_path(build: Plan) -> Path:
    """Where the finished module of a plan lies: MMPT_CACHE, else the user's cache folder."""
    root = os.environ.get("MMPT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmpt"
    return Path(root) / "kernels" / build.digest[:24] / f"{MODULE}.so"


_loaded: tuple[ModuleType, Path] | None = None


def load(path: Path | None = None) -> ModuleType:
    """The extension module; loading it registers torch.ops.mmpt. A process holds one: a second call returns it.

    path: a module that is built; default: the one of `plan`, built first if its cache is empty.
    Raises UserError where no compiler is, with the compiler's last lines where the build fails, and where `path` was
    built for another torch, Python or system.
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
            fix="delete it and run again: it is built for the torch and the Python that are here",
        ) from error
    return _loaded[0]


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
        raise UserError(
            "the folder of compiled modules cannot be written",
            where=error.filename or path.parent.parent,
            found=error.strerror,
            fix="set MMPT_CACHE to a folder that can",
        ) from None


def _compile(folder: Path, build: Plan) -> Path:
    """Runs ninja in a child process, whose output is shown only where it fails."""
    words = {
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
    code = "import json, sys; from torch.utils.cpp_extension import load; load(**json.loads(sys.argv[1]))"
    environment = dict(os.environ, CXX=build.compiler, PATH=_path_with_ninja())
    if build.cuda and (nvcc := programs.nvcc()):  # torch looks elsewhere first, and would take another one
        environment["CUDA_HOME"] = str(Path(nvcc).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(words)], capture_output=True, text=True, env=environment, check=False
    )
    built = folder / f"{MODULE}.so"
    if not built.exists():
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        telling = [line for line in lines if "error:" in line or "Error:" in line][:3] or lines[-3:]
        raise UserError("csrc does not build", found=" | ".join(telling), fix=CUDA_REMEDY if build.cuda else REMEDY)
    return built


def _path_with_ninja() -> str:
    """PATH, with the folder of pip's ninja where an unactivated environment left it out."""
    folder = Path(sys.executable).parent
    if shutil.which("ninja") is None and not (folder / "ninja").exists():
        raise UserError("ninja is missing, csrc is built with it", fix=REMEDY)
    return os.pathsep.join([os.environ.get("PATH", ""), str(folder)])


def _cuda_version() -> str | None:
    """nvcc's version where the module can be built for CUDA, else None: it is then for the CPU alone."""
    return None if lack_of_cuda() else programs.version("nvcc")


def lack_of_cuda() -> tuple[str, str] | None:
    """Why the module is not built for CUDA, and what to do about it; None where it is."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__}, built without CUDA", "install a CUDA build of torch"
    if not torch.cuda.is_available():
        return "no GPU that torch can use", "see what nvidia-smi says, and CUDA_VISIBLE_DEVICES"
    if programs.nvcc() is None:
        where = f"no nvcc below CUDA_HOME, on PATH or below {programs.TOOLKIT}"
        return where, f"install the toolkit of CUDA {torch.version.cuda}, which this torch was built with"
    return None


def _architectures() -> list[str]:
    """What torch will build for: the list that was asked for, else the compute capabilities of the GPUs here."""
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return [asked]
    cards = range(torch.cuda.device_count())
    return sorted({"{}.{}".format(*torch.cuda.get_device_capability(card)) for card in cards})
