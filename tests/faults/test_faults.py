"""Every fault, run: parts that results.json holds are not run again. Hours on two cores."""

import tempfile
from pathlib import Path

import pytest

from tests.faults.run import Lab, built, examine, is_there, keep, parts, read_results

LAB = Lab(Path(tempfile.gettempdir()) / "mmpt-faults")


@pytest.fixture(scope="session")
def clean():
    """The clean run of a corpus, made when it is first asked for."""
    made = {}

    def of(corpus):
        if corpus not in made:
            made[corpus] = built(LAB, corpus)
        return made[corpus]

    return of


@pytest.mark.slow  # each builds what a mutation of one place makes stale, some a training
@pytest.mark.xdist_group("faults")
@pytest.mark.parametrize("fault, corpus", [pytest.param(*one, id=f"{one[0].id}-{one[1]}") for one in parts()])
def test_the_named_check_stops_the_fault(fault, corpus, clean):
    if not is_there(fault, corpus, read_results()):
        run = clean(corpus)
        found = examine(fault, LAB.mutant(fault, run.project), run.failing)
        keep(f"{fault.id} {corpus}", {**found, "clean": run.state})
    found = read_results()[f"{fault.id} {corpus}"]
    if not fault.expects:
        pytest.skip(f"open: {found['stopped']}")
    assert found["stopped"] == "expected", found


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["generated", "captions"])
def test_the_unmutated_run_is_go(corpus, clean):
    assert (clean(corpus).state, clean(corpus).failing) == ("GO", ())
