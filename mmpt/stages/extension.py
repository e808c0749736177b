"""Stage extension: csrc, compiled for this machine. Profile keys it reads: ops."""

from __future__ import annotations

import shutil

import torch

from mmpt.ops import backend, toolkit
from mmpt.ops import extension as module_build
from mmpt.store.canonical import write_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.store.stage import StageContext


def extension(ctx: StageContext) -> None:
    """Compiles csrc, unless the profile chose the reference implementations: extension.json, mmpt_kernels.so.

    The module is compiled once for each content in the user's cache (module_build.module_path) and published as a copy:
    every later stage loads that very file.
    """
    if ctx.profile["ops.backend"] == backend.REFERENCE:
        write_json(ctx.out / backend.ABOUT, {"backend": backend.REFERENCE})
        return
    plan = module_build.plan()
    if ctx.device == "cuda" and plan.cuda is None:
        found, fix = toolkit.obstacle() or ("no CUDA sources", "see csrc/")
        raise UserError(
            "the operations cannot be compiled for CUDA",
            found=found,
            fix=f"{fix}, {toolkit.OR_REFERENCE}",
        )
    built = module_build.module_path(plan)
    ctx.progress(0, 1, "loading" if built.exists() else f"compiling {len(plan.sources)} files")
    module_build.compile_into(built, plan)
    file = f"{module_build.MODULE}.so"
    ctx.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(built, ctx.out / file)
    about = {
        "backend": backend.COMPILED,
        "module": {"file": file, "sha256": sha256_file(ctx.out / file)},
        "compiler": plan.version,
        "flags": list(plan.flags),
        "cuda": plan.cuda,
        "torch": torch.__version__,
    }
    write_json(ctx.out / backend.ABOUT, about)
    ctx.log(f"{file} of {len(plan.sources)} sources by {plan.version}")
