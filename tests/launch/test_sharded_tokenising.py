"""Tokenising by several workers gives the bytes of one process, however many they are, whatever happens to one."""

import shutil
import sys

import pytest

from mmpt.launch import launch
from mmpt.launch.errors import WorkersFailed
from mmpt.profile.packages import installed
from mmpt.shards.tokenising import Tokenising
from mmpt.stages.shards import shards, shards_part
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.launcher import Launcher
from mmpt.store.shares import share
from tests.launch import parts
from tests.launch.conftest import processes_below
from tests.shards.world import World, build_world

needs_ray = pytest.mark.skipif(not installed("ray"), reason="ray is not installed: pip install 'mmpt[ray]'")
BY_RAY = pytest.param("ray", marks=needs_ray)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return build_world(tmp_path_factory.mktemp("world") / "stages")


def spread(world: World, folder, launcher: Launcher, part=shards_part, each=Tokenising, **changes):
    """The shards stage with a launcher: (digest of its output, its context)."""
    ctx = world.context("shards", folder / "out", folder / "work", **changes)
    said = []
    ctx.launcher, ctx.on_log = launcher, said.append
    ctx.on_spread = lambda *_: launch(ctx, part, each)
    shards(ctx)
    there = [line for line in said if line.endswith("already there")]
    assert len(there) == len(Tokenising.pieces(ctx)), "the workers had left something to the body"
    return Manifest.of(folder / "out").digest, ctx


def alone(world: World, folder, **changes) -> str:
    return Manifest.of(world.run("shards", folder / "alone", folder / "alone.work", **changes)).digest


@pytest.mark.parametrize("kind", ["torchrun", BY_RAY])
def test_two_workers_write_the_bytes_of_one_process(world, tmp_path, kind):
    found, ctx = spread(world, tmp_path, Launcher(kind, 2))
    assert found == Manifest.of(world.path("shards")).digest
    assert ctx.run_info["launcher"]["processes"] == 2
    assert not processes_below(tmp_path)
    ended = {path: path.stat().st_mtime_ns for path in ctx.work.rglob("ended-*.json")}
    again, ctx = spread(world, tmp_path, Launcher(kind, 2))  # finished workers are not started again
    assert again == found and len(ended) == 2
    assert {path: path.stat().st_mtime_ns for path in ended} == ended


def test_workers_without_a_shard_have_nothing_to_do(world, tmp_path):
    shutil.copytree(world.root, tmp_path / "sounds")
    shutil.rmtree(tmp_path / "sounds" / "codecs" / "image")
    sounds = World(tmp_path / "sounds", world.profile, {})
    found, ctx = spread(sounds, tmp_path, Launcher("torchrun", 4), shards__records_per_shard=1000)
    assert found == alone(sounds, tmp_path, shards__records_per_shard=1000)
    assert len(Tokenising.pieces(ctx)) == 3


@pytest.mark.parametrize("kind", ["torchrun", BY_RAY])
def test_a_worker_that_is_killed_half_way_costs_no_byte(world, tmp_path, kind):
    found, ctx = spread(world, tmp_path, Launcher(kind, 2, restarts=2), parts.killed_once, parts.KilledOnce)
    assert (ctx.work / "killed-once").exists() and ctx.run_info["launcher"]["restarts"] == 1
    assert found == Manifest.of(world.path("shards")).digest


@needs_ray
@pytest.mark.slow  # a cluster each time, 12 s
@pytest.mark.parametrize(
    "each, said",
    [
        (parts.KilledAlways, "ActorDiedError: .*; what is done stays and doit goes on from there"),
        (parts.Breaking, "RuntimeError: a fault of ours; what is done stays"),
    ],
)
def test_ray_s_failures_are_told_in_a_line(world, tmp_path, each, said):
    with pytest.raises(WorkersFailed, match=said) as caught:
        spread(world, tmp_path, Launcher("ray", 2, restarts=1), each=each)
    assert "\n" not in str(caught.value) and not processes_below(tmp_path)


def test_without_ray_a_line_says_what_to_install(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'launcher.kind: ray is not installed.*pip install "mmpt\[ray\]"'):
        spread(world, tmp_path, Launcher("ray", 2))


@pytest.mark.parametrize("kind", ["torchrun", BY_RAY])
def test_a_codec_that_does_not_fit_is_the_user_s_one_line(world, tmp_path, kind):
    shutil.copytree(world.root, tmp_path / "other")
    codec = tmp_path / "other" / "codecs" / "audio" / "codec.json"
    codec.write_text(codec.read_text().replace('"identity": "', '"identity": "not '))
    with pytest.raises(UserError, match="the audio codec is not the one of the token space; found not"):
        spread(World(tmp_path / "other", world.profile, {}), tmp_path, Launcher(kind, 2))


def test_shares_are_whole_disjoint_and_even_by_kind():
    sizes = [("audio", size) for size in (9, 1, 5, 5, 4)] + [("image", 1.0)] * 4
    for world_size in (1, 2, 3, 20):
        shares = [share(sizes, rank, world_size) for rank in range(world_size)]
        assert sorted(piece for one in shares for piece in one) == list(range(9))
    two = [share(sizes, rank, 2) for rank in range(2)]
    assert [sum(sizes[piece][1] for piece in one if piece < 5) for one in two] == [13, 11]
    assert [sum(piece >= 5 for piece in one) for one in two] == [2, 2]
