"""Golden outputs by several workers: the bytes of one process, however pieces are divided; resumed by piece."""

import copy

import pytest

from mmpt.evaluate import generating
from mmpt.evaluate.generating import Generating
from mmpt.evaluate.golden import golden_pieces
from mmpt.evaluate.stages import generate, generate_part
from mmpt.store.digests import Manifest
from mmpt.store.stage import SliceView


@pytest.fixture
def context(run, tmp_path):
    """Makes contexts of stage generate, with so small a batch that there are many pieces."""

    def make(name):
        ctx = run.context("generate", tmp_path / name / "data")
        whole, keys = ctx.profile.whole
        profile = copy.deepcopy(dict(whole))
        profile["generate"]["batch_size"] = 3
        ctx.profile, ctx.work = SliceView(profile, keys, "generate"), tmp_path / name / "work"
        return ctx

    return make


def test_workers_in_any_number_make_the_bytes_of_one_process(run, context, monkeypatch):
    run.build("train")
    alone = context("alone")
    generate(alone)
    for world in (2, 3):
        spread = context(f"by {world}")
        for rank in reversed(range(world)):
            generate_part(spread, rank, world)
        with monkeypatch.context() as patch:
            patch.setattr(generating, "run_piece", None)  # nothing is left to do
            generate(spread)
        assert Manifest.of(spread.out) == Manifest.of(alone.out)


def test_a_stage_that_was_killed_makes_only_the_pieces_that_are_missing(run, context, monkeypatch):
    run.build("train")
    ctx = context("resumed")
    generate_part(ctx, 0, 2)
    there = {path: path.stat().st_mtime_ns for path in (ctx.work / "golden").iterdir()}
    made = []
    real = generating.run_piece
    monkeypatch.setattr(generating, "run_piece", lambda *words: made.append(words) or real(*words))
    generate(ctx)
    assert 0 < len(made) == len(Generating(ctx).pieces) - len(there)
    assert {path: path.stat().st_mtime_ns for path in there} == there


def test_pieces_hold_every_output_once_and_do_not_depend_on_workers(run, context):
    work = Generating(context("plan"))
    space, sets, setting = work.workshop.space, work.sets, work.setting
    pieces = golden_pieces(space, sets, setting)
    wanted = [(w.record["id"], w.record["task"], w.decoding, w.free) for one in pieces for w in one.wanted]
    assert len(wanted) == len(set(wanted)) == 4 * sum(len(records) for records in sets.values())
    assert max(len(one.wanted) for one in pieces) == 2 * setting.batch_size
    assert len(pieces) > len(sets)
