"""The compiled operations, once for each instruction set this processor has."""

import pytest
import torch

from mmpt.ops import native

SETS = [
    name for name in ("generic", "avx2", "avx512", "avx512_bf16", "amx") if native.kernels.select_instruction_set(name)
]
native.kernels.select_instruction_set("")


@pytest.fixture(autouse=True)
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=SETS)
def instruction_set(request):
    """Runs the test on each set; the best one is back afterwards."""
    assert native.kernels.select_instruction_set(request.param)
    yield request.param
    native.kernels.select_instruction_set("")
