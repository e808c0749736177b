"""What the tests of training share."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """For a test that forks: a child does not inherit the threads that OpenMP would wait for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
