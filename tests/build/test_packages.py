"""The packages in the order of the house: each imports only from those before it, at any place of its code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "mmpt"
ORDER = (
    *("store", "profile", "launch", "tokens", "ops", "codecs", "corpus", "shards", "model", "train", "generate"),
    *("evaluate", "gating", "report", "stages", "track", "build", "bench"),
)
# The exception: running a stage's code loads the compiled module first.
ALLOWED = {("launch", "ops")}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
    return {name.split(".")[1] for name in names if name.startswith("mmpt.")}


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_from_those_before_it(package):
    for path in (ROOT / package).rglob("*.py"):
        before = {*ORDER[: ORDER.index(package) + 1], "__version__"}
        wrong = {name for name in imported(path) - before if (package, name) not in ALLOWED}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_order_names_every_package():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(ORDER)


def test_launchers_import_neither_torch_nor_ray_before_they_need_them():
    heavy = "{'torch', 'numpy', 'ray', 'submitit'}"
    modules = "mmpt.launch.dispatch, mmpt.launch.torchrun, mmpt.launch.ray_data, mmpt.launch.slurm, mmpt.launch.worker"
    code = f"import sys, {modules}\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)
