"""Programs of this machine that a result may depend on: the C++ compiler, nvcc."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

ABSENT = "absent"
COMPILERS = ("g++", "c++", "clang++")
TOOLKIT = "/usr/local/cuda"


def cxx() -> str | None:
    """The C++ compiler's command: $CXX, else the first of g++, c++ and clang++ on PATH, else None."""
    asked = os.environ.get("CXX")
    if asked:
        return asked if shutil.which(asked.split()[0]) else None
    return next((name for name in COMPILERS if shutil.which(name)), None)


def nvcc() -> str | None:
    """Path of nvcc: below $CUDA_HOME or $CUDA_PATH, on PATH, or where the toolkit's installer puts it; else None."""
    homes = [home for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    places = [*(os.path.join(home, "bin", "nvcc") for home in homes), "nvcc", f"{TOOLKIT}/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


@functools.cache
def version(program: str) -> str:
    """What "c++" or "nvcc" says of its version, in one line; "absent" where it is not installed.

    A program that fails is no error here: what it says stands for its version.
    """
    command = {"c++": cxx, "nvcc": nvcc}[program]()
    if command is None:
        return ABSENT
    done = subprocess.run([*command.split(), "--version"], capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        return f"{command} --version fails: {said[0]}"
    return lines[-1 if program == "nvcc" else 0]
