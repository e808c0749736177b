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


def test_a_stage_that_says_nothing_is_said_to_run_every_half_minute(clock):
    out = io.StringIO()
    shown = Display(out)
    shown.start("token_space")
    for _ in range(65):
        clock[0] += 1
        shown.silence("token_space")
    lines = [line.split(maxsplit=1)[1] for line in out.getvalue().splitlines()]
    assert lines == ["still runs, for 30 s", "still runs, for 60 s"]


def test_what_a_stage_says_puts_that_off(clock):
    out = io.StringIO()
    shown = Display(out)
    shown.start("shards")
    for done in range(50):
        clock[0] += 1
        (shown.silence("shards") if done % 2 else shown.progress("shards", done, 50, "media"))
    assert "still runs" not in out.getvalue() and "media" in out.getvalue()


def test_a_terminal_has_a_bar_for_a_stage_that_says_nothing(clock):
    out = Terminal()
    shown = Display(out)
    shown.start("token_space")
    for seconds in (5, 6):
        clock[0] += seconds
        shown.silence("token_space")
        assert ("token_space" in out.getvalue()) == (seconds == 6), "only after ten seconds"
    shown.close()


def test_a_stage_that_does_not_know_of_how_many_says_how_many_it_has(clock):
    out = io.StringIO()
    shown = Display(out)
    shown.start("shards")
    shown.progress("shards", 100, 0, "audio train")
    clock[0] += 20
    shown.progress("shards", 500, 0, "audio train")
    assert out.getvalue().split() == "shards 500 audio train (20/s)".split()
