"""The CUDA toolkit that csrc is compiled with: where it lies, whether it fits torch, for which GPUs it compiles."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from mmpt.store import programs

HEADER = Path("include/cuda_runtime.h")
OR_REFERENCE = "or choose `ops.backend: reference` in the profile"


@dataclass(frozen=True)
class Toolkit:
    """nvcc: the command. home: the folder that holds include/cuda_runtime.h and libcudart. release: of nvcc, "13.0"."""

    nvcc: str
    home: Path
    release: str

    @property
    def libraries(self) -> Path:
        """The folder where torch's linker flags look for libcudart."""
        return next((self.home / name for name in ("lib64", "lib") if (self.home / name).exists()), self.home / "lib64")


def find() -> Toolkit | None:
    """The toolkit of the nvcc that is found first (`programs.nvcc`); None without one that runs and has its headers."""
    nvcc = programs.nvcc()
    if nvcc is None:
        return None
    release = re.search(r"cuda_(\d+\.\d+)", programs.version("nvcc"))
    home = next((folder for folder in _homes(nvcc) if (folder / HEADER).is_file()), None)
    return Toolkit(nvcc, home, release[1]) if home and release else None


def _homes(nvcc: str) -> list[Path]:
    """Folders that may be nvcc's toolkit, best first: nvcc on PATH may be a link or a script that runs another one."""
    path = Path(nvcc)
    said = [place.parent for place in [_installed(nvcc)] if place]
    named = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return [path.parents[1], path.resolve().parents[1], *said, *named, Path(programs.TOOLKIT)]


@functools.cache
def _installed(nvcc: str) -> Path | None:
    """The folder of the compiler driver that `nvcc` runs in the end, as its list of commands names it."""
    done = subprocess.run([nvcc, "--dryrun", "none.cu"], capture_output=True, text=True, check=False)
    place = re.search(r"^#\$ _HERE_=(.+)$", done.stdout + done.stderr, re.MULTILINE)
    return Path(place[1]) if place else None


def architectures() -> list[str]:
    """What torch compiles for: the list that was asked for, else the compute capabilities of the GPUs here."""
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return [asked]
    cards = range(torch.cuda.device_count())
    return sorted({"{}.{}".format(*torch.cuda.get_device_capability(card)) for card in cards})


def obstacle() -> tuple[str, str] | None:
    """Why csrc cannot be compiled for CUDA here, and what to do about it; None where it can.

    A GPU need not be visible where TORCH_CUDA_ARCH_LIST says what to compile for: images of containers are built so.
    """
    wanted = torch.version.cuda
    if wanted is None:
        return f"torch {torch.__version__}, built without CUDA", "install a CUDA build of torch"
    if not (torch.cuda.is_available() or os.environ.get("TORCH_CUDA_ARCH_LIST")):
        return "no GPU that torch can use", (
            "see what nvidia-smi says, and CUDA_VISIBLE_DEVICES; to build where no GPU is, set TORCH_CUDA_ARCH_LIST "
            "(9.0 for an H100)"
        )
    install = f"install the toolkit of CUDA {wanted}, which this torch was built with, and set CUDA_HOME to its folder"
    nvcc = programs.nvcc()
    if nvcc is None:
        return f"no nvcc below CUDA_HOME, on PATH or below {programs.TOOLKIT}", install
    kit = find()
    if kit is None:
        return f"{nvcc} ({programs.version('nvcc')}), without {HEADER} in the toolkit around it", install
    if kit.release.split(".")[0] != wanted.split(".")[0]:
        return f"{nvcc} of CUDA {kit.release}, but torch {torch.__version__} is built with CUDA {wanted}", install
    if not (kit.libraries / "libcudart.so").exists():
        return f"no libcudart.so of CUDA {kit.release} in {kit.libraries}", (
            f"install the runtime library of CUDA {wanted}, which this torch was built with, and its development "
            "files (package cuda-cudart-dev)"
        )
    return None
