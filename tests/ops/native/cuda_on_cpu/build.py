"""Builds csrc's CUDA side for the CPU and registers it as torch.ops.mmpt_on_cpu, beside the real operations.

Only text that is no C++ for a CPU is rewritten: kernel launches, dynamic shared memory, clusters, products of 16-bit
matrices into fp32, the size of a chunk, and the name of the library.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch.utils.cpp_extension import load

from mmpt.ops import extension

HERE = Path(__file__).parent
LAUNCH = re.compile(r"(\b\w+(?:<[\w, ]+>)?)\s*<<<(.*?)>>>\s*\(", re.DOTALL)
CLUSTERS = re.compile(r"// Thread block clusters exist.*(?=}  // namespace mmpt)", re.DOTALL)
OTHERWISE = {
    "at::addmm_out(out, out, a, b, out.scalar_type())": "emulated::multiply_wide(out, a, b, true)",
    "at::mm_out(out, a, b, out.scalar_type())": "emulated::multiply_wide(out, a, b, false)",
    "kChunkBytes / row_bytes": "emulated::chunk_bytes() / row_bytes",
}
EMULATED = ("cluster_rank", "cluster_size", "cluster_sync", "cluster_load", "multiply_tile")
DYNAMIC = "extern __shared__ __align__(16) unsigned char storage[];"


def build(folder: Path) -> None:
    """Compile into `folder` and load the result. What `folder` holds already is compiled again where it has changed."""
    wanted = set(OTHERWISE)
    for source in extension.SOURCES.iterdir():
        text = source.read_text()
        for written, emulated in OTHERWISE.items():
            if written in text:
                text = text.replace(written, emulated)
                wanted.discard(written)
        if source.suffix == ".cu":
            target = folder / f"{source.stem}_kernels.cpp"
            text = LAUNCH.sub(r"emulated::launch_of([](auto... x) { \1(x...); }, \2)(", text).replace(
                DYNAMIC, "unsigned char* storage = emulated::dynamic_shared();"
            )
        elif source.name == "ops.cpp":
            target = folder / source.name
            text = text.replace("TORCH_LIBRARY(mmpt, m)", "TORCH_LIBRARY(mmpt_on_cpu, m)")
            text = re.sub(r"TORCH_LIBRARY_IMPL\(mmpt, CPU, m\) \{.*?\n\}\n", "", text, flags=re.DOTALL)
            text = text.replace("TORCH_LIBRARY_IMPL(mmpt, CUDA, m)", "TORCH_LIBRARY_IMPL(mmpt_on_cpu, CPU, m)")
            text = text.replace("TORCH_LIBRARY_IMPL(mmpt, Meta, m)", "TORCH_LIBRARY_IMPL(mmpt_on_cpu, Meta, m)")
        elif source.suffix in (".h", ".cuh") or source.name == "ops_cuda.cpp":
            target = folder / source.name
            text = CLUSTERS.sub("".join(f"using emulated::{name};\n" for name in EMULATED), text)
        else:
            continue
        _write(target, text)
    assert not wanted, f"csrc does not say {wanted} any more"
    _write(folder / "emulated.cpp", (HERE / "emulated.cpp").read_text())
    load(
        "mmpt_on_cpu",
        [str(path) for path in sorted(folder.glob("*.cpp"))],
        build_directory=str(folder),
        extra_include_paths=[str(HERE)],
        extra_cflags=["-O1", "-std=c++20", "-DMMPT_CUDA", "-fno-strict-aliasing"],
        is_python_module=False,
        verbose=False,
    )
    assert torch.ops.mmpt_on_cpu.linear_cross_entropy is not None


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
