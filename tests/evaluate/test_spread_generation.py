"""Golden outputs by several workers: the bytes of one process, however pieces are divided; resumed by piece."""

import copy
import shutil

import pytest

from mmpt.evaluate import generating
from mmpt.evaluate.generating import Generating
from mmpt.evaluate.golden import golden_pieces
from mmpt.stages.generate import generate, generate_part
from mmpt.store.digests import Manifest
from mmpt.store.stage import SliceView


@pytest.fixture(scope="module")
def context(run, tmp_path_factory):
    """Makes contexts of stage generate, with so small a batch that there are many pieces."""
    folder = tmp_path_factory.mktemp("spread")

    def make(name):
        ctx = run.context("generate", folder / name / "data")
        whole, keys = ctx.profile.whole
        profile = copy.deepcopy(dict(whole))
        profile["generate"]["batch_size"] = 3
        ctx.profile, ctx.work = SliceView(profile, keys, "generate"), folder / name / "work"
        return ctx

    return make


@pytest.fixture(scope="module")
def alone(context):
    """What one process made, its pieces still in its work folder."""
    ctx = context("alone")
    generate(ctx)
    return ctx


def test_three_workers_make_the_bytes_of_one_process(alone, context, monkeypatch):
    spread = context("by 3")
    for rank in reversed(range(3)):
        generate_part(spread, rank, 3)
    monkeypatch.setattr(generating, "run_piece", None)  # nothing is left to do
    generate(spread)
    assert Manifest.of(spread.out) == Manifest.of(alone.out)


def test_a_stage_that_was_killed_makes_only_the_pieces_that_are_missing(alone, context, monkeypatch):
    ctx = context("resumed")
    shutil.copytree(alone.work, ctx.work, dirs_exist_ok=True)
    pieces = sorted((ctx.work / "golden").iterdir())
    lost, kept = pieces[::5], {path for place, path in enumerate(pieces) if place % 5}
    for path in lost:
        path.unlink()
    there = {path: path.stat().st_mtime_ns for path in kept}
    made = []
    real = generating.run_piece
    monkeypatch.setattr(generating, "run_piece", lambda *words: made.append(words) or real(*words))
    generate(ctx)
    assert len(pieces) == len(Generating(ctx).pieces) and 0 < len(made) == len(lost)
    assert {path: path.stat().st_mtime_ns for path in kept} == there
    assert Manifest.of(ctx.out) == Manifest.of(alone.out)


def test_pieces_hold_every_output_once_and_do_not_depend_on_workers(run, context):
    work = Generating(context("plan"))
    space, sets, setting = work.workshop.space, work.sets, work.setting
    pieces = golden_pieces(space, sets, setting)
    wanted = [(w.record["id"], w.record["task"], w.decoding, w.free) for one in pieces for w in one.wanted]
    assert len(wanted) == len(set(wanted)) == 4 * sum(len(records) for records in sets.values())
    assert max(len(one.wanted) for one in pieces) == 2 * setting.batch_size
    assert len(pieces) > len(sets)
