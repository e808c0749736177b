"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer: a build of their own, and the tests on it."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")
# Compiled graphs bring compilers of their own, peak memory is the sanitizer's, a million draws take too long.
LEFT_OUT = "not (compiled or opcheck or no_array or million or far_tail or instruction)"
RUN = """
import sys
from mmpt.ops import extension
extension.FLAGS = tuple(f for f in extension.FLAGS if not f.startswith("-O")) + tuple(sys.argv[1].split())
import pytest
sys.exit(pytest.main(["-q", "-s", "-n", "0", "-p", "no:cacheprovider", "-k", sys.argv[2], *sys.argv[3:]]))
"""


def test_the_tests_pass_under_the_sanitizers():
    # libstdc++ too: Python does not load it at its start, when the sanitizer looks for the function that throws.
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    if not all(map(os.path.isabs, found)):
        pytest.skip("g++ has no libasan here")
    folder = os.path.dirname(__file__)
    files = [
        os.path.join(folder, name) for name in ("test_linear_cross_entropy.py", "test_sampling.py", "test_screen.py")
    ]
    environment = dict(
        os.environ,
        LD_PRELOAD=" ".join(found),
        ASAN_OPTIONS="detect_leaks=0:detect_odr_violation=0:abort_on_error=0",
        UBSAN_OPTIONS="print_stacktrace=1",
        OMP_NUM_THREADS="2",
    )
    done = subprocess.run(
        [sys.executable, "-c", RUN, " ".join(SANITIZERS), LEFT_OUT, *files],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
