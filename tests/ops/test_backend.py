"""Which implementation runs: what stage `extension` publishes is what later stages run, and nothing falls back."""

import json
import subprocess
import sys

import pytest
import torch

from mmpt import ops
from mmpt.ops import backend, extension, toolkit
from mmpt.stages.extension import extension as build_extension
from mmpt.store.errors import UserError
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext


def context(folder, choice):
    return StageContext("extension", SliceView({"ops": {"backend": choice}}, ("ops",)), {}, folder, folder, seed=1)


@pytest.fixture
def built(tmp_path):
    build_extension(context(tmp_path / "out", "auto"))
    return tmp_path / "out"


def adopting(folder):
    """(exit code, backend and module of a new process that adopts `folder`, stderr)."""
    code = "import sys; from pathlib import Path; from mmpt.ops import adopt, extension; adopt(Path(sys.argv[1])); "
    code += "print(extension._loaded and extension._loaded[1])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip(), done.stderr


def test_a_stage_runs_the_published_module_and_no_other(built):
    validate_file(built / "extension.json", "extension")
    assert adopting(built)[:2] == (0, str(built / "mmpt_kernels.so"))


def test_two_builds_publish_equal_bytes(built, tmp_path):
    build_extension(context(tmp_path / "again", "auto"))
    names = sorted(path.name for path in built.iterdir())
    assert names == ["extension.json", "mmpt_kernels.so"]
    assert all((built / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_a_swapped_module_is_refused(built):
    with open(built / "mmpt_kernels.so", "r+b") as file:
        file.seek(1000)
        file.write(b"?")
    with pytest.raises(UserError, match="not the one that was published"):
        backend.adopt(built)


def test_a_module_that_does_not_load_is_one_line_with_the_way_out(built):
    (built / "mmpt_kernels.so").write_bytes(b"not a library")
    about = json.loads((built / "extension.json").read_text())
    about["module"]["sha256"] = backend.sha256_file(built / "mmpt_kernels.so")
    (built / "extension.json").write_text(json.dumps(about))
    code, _, said = adopting(built)
    assert code and "the compiled module does not load" in said and "delete it" in said


def test_the_reference_needs_no_compiler_and_loads_no_module(tmp_path, monkeypatch):
    monkeypatch.setattr(extension, "plan", lambda: pytest.fail("looked for a compiler"))
    build_extension(context(tmp_path, "reference"))
    assert [path.name for path in tmp_path.iterdir()] == ["extension.json"]
    assert adopting(tmp_path)[:2] == (0, "None")


def test_without_a_compiler_the_stage_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(extension.programs, "cxx", lambda: None)
    with pytest.raises(UserError, match=r"no C\+\+ compiler.*install g\+\+.*ops.backend: reference"):
        build_extension(context(tmp_path, "auto"))
    assert not list(tmp_path.iterdir())


def test_cuda_without_nvcc_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(toolkit, "obstacle", lambda: ("no nvcc", "install the toolkit"))
    asked = context(tmp_path, "auto")
    asked.device = "cuda"
    with pytest.raises(UserError, match="no nvcc; install the toolkit"):
        build_extension(asked)


def test_both_implementations_answer_alike(backend):
    g = torch.Generator().manual_seed(3)
    hidden, base, new = (torch.randn(n, 24, generator=g) for n in (50, 61, 20))
    labels = torch.randint(0, 81, (50,), generator=g)
    assert ops.active() == backend
    assert float(ops.linear_cross_entropy(hidden, labels, base, new)) == pytest.approx(
        float(torch.nn.functional.cross_entropy(hidden @ torch.cat([base, new]).T, labels)), rel=1e-6
    )
    drawn = ops.sample_range(hidden, base, new, 40, 81, temperature=0.7, top_k=9, seed=torch.arange(50), offset=2)
    ops.use("reference" if backend == "compiled" else "compiled")
    again = ops.sample_range(hidden, base, new, 40, 81, temperature=0.7, top_k=9, seed=torch.arange(50), offset=2)
    assert torch.equal(drawn, again)
