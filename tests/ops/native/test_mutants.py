"""Each kernel broken on purpose, once, and the tests that must see it: a test that no bug fails proves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpt.ops import extension, native

pytestmark = pytest.mark.slow

LOSS, DRAW, SCREEN = "test_linear_cross_entropy.py", "test_sampling.py", "test_screen.py"
CUDA = "test_cuda_on_cpu.py"  # the .cu files, thread by thread on the CPU
# name: (file of csrc, what it says, what it says when broken, test file, tests that cover it)
MUTANTS = {
    "largest logit": (
        "tiles_impl.h",
        "top = above ? value : top;",
        "top = v < 100 && above ? value : top;",
        LOSS,
        "statistics or near_float64",
    ),
    "rescaling of a running sum": (
        "tiles_impl.h",
        "if (factor[i] == T(1)) continue;",
        "continue;",
        LOSS,
        "near_float64",
    ),
    "lowest id of a tie": (
        "tiles_impl.h",
        "const auto above = value > top;",
        "const auto above = value >= top;",
        LOSS,
        "statistics",
    ),
    "last row of a product": (
        "tiles_impl.h",
        "if (i < m) micro<T, 1, NV>",
        "if (i + 1 < m) micro<T, 1, NV>",
        LOSS,
        "small_and_odd or near_float64",
    ),
    "order of bf16 pairs": (
        "pairs_impl.h",
        "_mm512_permutex2var_epi16(x, second, y)",
        "_mm512_permutex2var_epi16(x, first, y)",
        LOSS,
        "bf16_error",
    ),
    "a tile of AMX": ("pairs_impl.h", "_tile_dpbf16ps(3, 5, 7);", "_tile_dpbf16ps(3, 5, 6);", LOSS, "bf16_error"),
    "slope of the softcap at the target": (
        "cross_entropy_pass.h",
        "return rows_.weight[i] * slope(target_logit[i]);",
        "return rows_.weight[i];",
        LOSS,
        "gradcheck",
    ),
    "gradient of the z-loss": (
        "cross_entropy_pass.h",
        "const double scale = rows_.weight[i] * (1 + 2 * call_.z_loss * lse[i]);",
        "const double scale = rows_.weight[i];",
        LOSS,
        "gradcheck",
    ),
    "fresh memory taken for zeros": (
        "cross_entropy_pass.h",
        "b > 0 || (!apart && !(fresh_ && s.grad_fresh))",
        "true",
        LOSS,
        "near_float64",
    ),
    "an ignored row that counts": (
        "linear_cross_entropy.cpp",
        "if (label[row] == call.ignore_index) continue;",
        "if (label[row] == call.ignore_index && row) continue;",
        LOSS,
        "nothing",
    ),
    "order of a dot's parts": (
        "tiles_impl.h",
        "for (int width = kParts / 2; width; width /= 2)",
        "for (int width = kBytes / 8; width; width /= 2)",
        DRAW,
        "every_instruction or plain",
    ),
    "sums of sixteen dots": (
        "tiles_impl.h",
        "halves<4>(eight[2 * i], eight[2 * i + 1])",
        "halves<4>(eight[2 * i + 1], eight[2 * i])",
        DRAW,
        "same_bits or own_row",
    ),
    "key of a Philox round": (
        "tiles_impl.h",
        "k0 = (k0 + kPhiloxWeylA) & kPhiloxMask, k1",
        "k1",
        DRAW,
        "noise or follow",
    ),
    "bound on who can still win": (
        "tiles_impl.h",
        "(32.f - exponent - p) * 0.69314718f + size",
        "(24.f - exponent - p) * 0.69314718f + size",
        DRAW,
        "far_tail or follow",
    ),
    "ties of top-k": ("sampling.cpp", ": a < b; };", ": a > b; };", DRAW, "oracle"),
    "last id of a nucleus": (
        "sampling.cpp",
        "if (double(before) >= wanted) break;",
        "if (double(before + mass[i]) >= wanted) break;",
        DRAW,
        "oracle",
    ),
    "greedy tie": ("sampling.cpp", "if (logit[c] > top) top", "if (logit[c] >= top) top", DRAW, "lowest_id"),
    "the extra id": (
        "sampling_parts.h",
        "return column == hi - lo ? extra : lo + column;",
        "return lo + column;",
        DRAW,
        "outside or plain",
    ),
    "width of a range": ("sampling.cpp", "max_range < 0 || r.hi - r.lo <= max_range", "true", DRAW, "max_range"),
    "screen: error of the codes": (
        "screen.cpp",
        "const double bound = row.error + ",
        "const double bound = ",
        SCREEN,
        "wide_range or bound",
    ),
    "screen: an infinite bound": (
        "screen.cpp",
        "std::isinf(bounds[id]) ? 0 : one.scale",
        "one.scale",
        SCREEN,
        "spoilt",
    ),
    "screen: ids beside the range": ("screen.cpp", "std::fill(side, side + start, kNothing);", "", SCREEN, "any_range"),
    "screen: a row of AMX": (
        "screen_amx.cpp",
        "_tile_dpbsud(3, 5, 7);",
        "_tile_dpbsud(3, 5, 6);",
        SCREEN,
        "wide_range",
    ),
    "cuda: order of compacted rows": (
        "cuda_device.cuh",
        "return {(warp ? below : 0) +",
        "return {below +",
        CUDA,
        "loss_statistics",
    ),
    "cuda: gathered rows": (
        "linear_cross_entropy.cu",
        "hidden[int64_t(row) * stride + k]",
        "hidden[int64_t(blockIdx.x) * stride + k]",
        CUDA,
        "loss_statistics",
    ),
    "cuda: scattered gradients": (
        "linear_cross_entropy.cu",
        "d_hidden[int64_t(row) * dimensions + k] =",
        "d_hidden[int64_t(first + blockIdx.x) * dimensions + k] =",
        CUDA,
        "loss_statistics",
    ),
    "cuda: sums of groups": (
        "linear_cross_entropy.cu",
        "if (row < 0 || out.group[row] != group) continue;",
        "if (row < 0) continue;",
        CUDA,
        "loss_statistics",
    ),
    "cuda: fields of a running softmax": (
        "cross_entropy_rows.cu",
        "F max, sum, logits, target;",
        "F max, logits, sum, target;",
        CUDA,
        "loss_statistics",
    ),
    "cuda: best of two packs": (
        "cross_entropy_rows.cu",
        "== top ? first : first + kRowThreads;",
        "== top ? first + kRowThreads : first;",
        CUDA,
        "wherever_they_lie",
    ),
    "cuda: the target among whole packs": (
        "cross_entropy_rows.cu",
        "if (owns_target && its.is_whole(target_pack))",
        "if (false)",
        CUDA,
        "16_bits",
    ),
    "cuda: packs beside the allowed ones": (
        "cross_entropy_rows.cu",
        "clear(done, segment.first);",
        "",
        CUDA,
        "row_ranges",
    ),
    "cuda: a wrong row beside right ones": (
        "linear_cross_entropy.cu",
        "out.info->scale = kind ? NAN : scale;",
        "out.info->scale = scale;",
        CUDA,
        "no_finite_gradient",
    ),
    "cuda: gradients of float16": (
        "linear_cross_entropy.cu",
        "in.boosts ? gradient_boost(weights.largest * fabs(scale)) : 1.0;",
        "1.0;",
        CUDA,
        "float16",
    ),
    "cuda: a later chunk": (
        "ops_cuda.cpp",
        "multiply(grad, d_logits.t(), x, first > 0);",
        "multiply(grad, d_logits.t(), x, false);",
        CUDA,
        "chunks_add_up",
    ),
    "cuda: digit of a descent": (
        "sampling.cu",
        "h.digit = uint32_t(highest - crossing);",
        "h.digit = uint32_t(highest);",
        CUDA,
        "draws_equal",
    ),
    "cuda: lanes that share a digit": (
        "sampling.cu",
        "warp_sum(of_lane(digit, leader) == digit ? value : 0)",
        "warp_sum(value)",
        CUDA,
        "draws_equal",
    ),
    "cuda: sums of a warp": (
        "cuda_device.cuh",
        "shift < 54; shift += 27",
        "shift < 27; shift += 27",
        CUDA,
        "draws_equal",
    ),
    "cuda: parts of two products": (
        "range_products.cu",
        "{b.word[j], b.word[j + 1]});",
        "{b.word[0], b.word[j + 1]});",
        CUDA,
        "tensor_cores_equal",
    ),
    "cuda: rows that share a range": (
        "range_products.cu",
        "lowest(part, other) == lowest(part, row))",
        "true)",
        CUDA,
        "tensor_cores_equal",
    ),
    "cuda: ids that tensor cores have": (
        "sampling.cu",
        "if (ranges[0].lo + r < from) continue;",
        "",
        CUDA,
        "tensor_cores_take",
    ),
    "cuda: a grid of nothing": (
        "sampling.cu",
        "(wave + across - 1) / across), int64_t(1))",
        "(wave + across - 1) / across), int64_t(0))",
        CUDA,
        "no_failed_launch",
    ),
    "cuda: parts of a cluster": (
        "cross_entropy_rows.cu",
        "total = rank ? MergeRunning<F>()(total, other) : other;",
        "total = other;",
        CUDA,
        "cluster",
    ),
    "cuda: slice of a block": ("cross_entropy_rows.cu", "int(rank * slice_columns);", "0;", CUDA, "cluster"),
    "cuda: softcap of a draw": (
        "sampling.cu",
        "if (head.softcap > 0.f) sum = tanhf",
        "if (head.softcap < 0.f) sum = tanhf",
        CUDA,
        "draws_equal",
    ),
    "cuda: column of a copied logit": (
        "sampling.cu",
        "range.id(c) * step",
        "(range.lo + c) * step",
        CUDA,
        "draws_equal",
    ),
    "cuda: a cut that keeps too much": (
        "sampling.cu",
        "if (!cut.keeps(key_of(row.value[c]), c)) continue;",
        "",
        CUDA,
        "draws_equal",
    ),
}
# Where the broken lines are of an instruction set that this processor lacks, no test runs them.
NEEDS = {"order of bf16 pairs": "avx512_bf16", "a tile of AMX": "amx", "screen: a row of AMX": "amx"}
RUN = """
import sys
from pathlib import Path
from mmpt.ops import extension
extension.SOURCES = Path(sys.argv[1])
compile = extension._compile
extension._compile = lambda _, plan: compile(Path(sys.argv[4]), plan)
import pytest
options = ["-q", "-x", "-n", "0", "-m", "slow or not slow", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*options, "-k", sys.argv[2], sys.argv[3]]))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Folders for csrc and its builds: each mutant compiles what it changes, and what the one before it had changed."""
    folder = tmp_path_factory.mktemp("mutants")
    for name in ("csrc", "native", "emulated"):
        (folder / name).mkdir()
    return folder


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_kernel_fails_its_tests(name, shared, tmp_path):
    file, right, wrong, tests, covering = MUTANTS[name]
    needed = NEEDS.get(name)
    if needed and not native.kernels.select_instruction_set(needed):
        pytest.skip(f"this processor has no {needed}: nothing here runs the lines of {file} that are broken")
    native.kernels.select_instruction_set("")
    csrc = shared / "csrc"
    for source in extension.SOURCES.iterdir():
        text = source.read_text()
        if source.name == file:
            assert right in text, f"{file} does not say {right!r} any more: break it elsewhere"
            text = text.replace(right, wrong, 1)
        if not (csrc / source.name).exists() or (csrc / source.name).read_text() != text:
            (csrc / source.name).write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MMPT_EMULATED_FOLDER": str(shared / "emulated")}
    if not file.endswith((".cu", ".cuh")) and file != "ops_cuda.cpp":  # those are no part of a module for CPUs
        environment["MMPT_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(csrc), covering, str(Path(__file__).parent / tests), str(shared / "native")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 1, f"exit code {done.returncode}: nothing failed\n" + (done.stdout + done.stderr)[-1500:]
    assert "FAILED" in done.stdout and "error:" not in done.stderr
