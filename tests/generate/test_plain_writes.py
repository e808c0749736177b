"""What decoding changes of torch while it runs on CUDA, seen without a GPU: settings of the host."""

import pytest
import torch

from mmpt.generate.graphs import plain_writes


@pytest.fixture(autouse=True)
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def settings():
    flags = torch.backends.cuda
    return (
        torch.are_deterministic_algorithms_enabled(),
        flags.cudnn_sdp_enabled(),
        flags.mem_efficient_sdp_enabled(),
        flags.math_sdp_enabled(),
    )


def test_on_cuda_writes_are_plain_and_cudnn_is_out():
    before = settings()
    with plain_writes(torch.device("cuda")):
        assert settings() == (False, False, True, True)
    assert settings() == before and before[0]


def test_it_is_all_back_after_an_error():
    before = settings()
    with pytest.raises(ValueError), plain_writes(torch.device("cuda", 1)):
        raise ValueError
    assert settings() == before


def test_a_cpu_keeps_its_settings():
    before = settings()
    with plain_writes(torch.device("cpu")):
        assert settings() == before
