"""The tests beside this file run on both implementations of the operations; those below native/ on the compiled one."""

import pytest

from mmpt import ops


@pytest.fixture(params=["compiled", "reference"])
def backend(request):
    """Runs the test on each implementation; the default is back afterwards."""
    ops.use(request.param)
    yield request.param
    ops.use("compiled")
