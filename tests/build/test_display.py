"""What a run shows of a stage: how far it is, how fast, and how long it still takes."""

import io

import pytest

from mmpt.build import display
from mmpt.build.display import Display


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_a_line_has_rate_and_time_left_counted_from_where_the_stage_began(clock):
    out = io.StringIO()
    shown = Display(out)
    shown.start("train")
    shown.progress("train", 450, 900, "loss 0.5")  # goes on from what an interrupted run left
    clock[0] += 20
    shown.progress("train", 490, 900, "loss 0.4")
    assert out.getvalue().split("\n")[0].split() == "train 490/900 loss 0.4 (2/s, 205 s left)".split()


def test_where_no_rate_is_known_none_is_shown(clock):
    out = io.StringIO()
    shown = Display(out)
    shown.start("corpus")
    clock[0] += 12
    shown.progress("corpus", 0, 5400, "generated")
    assert out.getvalue().split() == ["corpus", "0/5400", "generated"]


def test_another_part_of_a_stage_has_a_rate_of_its_own(clock):
    out = io.StringIO()
    shown = Display(out)
    shown.start("scores")
    shown.progress("scores", 0, 10, "reading")
    clock[0] += 1
    shown.progress("scores", 9, 10, "reading")
    shown.progress("scores", 0, 4, "scoring")
    clock[0] += 16
    shown.progress("scores", 2, 4, "scoring")
    assert out.getvalue().split() == "scores 2/4 scoring (0.125/s, 16 s left)".split()


def test_a_bar_has_them_too():
    out = Terminal()
    shown = Display(out)
    shown.start("train")
    for done in (1, 50, 100):
        shown.progress("train", done, 900, "loss 0.5")
    shown.close()
    assert "100/900" in out.getvalue() and "/s" in out.getvalue() and "loss 0.5" in out.getvalue()
