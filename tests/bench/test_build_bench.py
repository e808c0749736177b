"""The build's benchmark: its graphs, our side of it for real, and a peer that is not installed."""

from pathlib import Path

from mmpt.bench import build
from mmpt.bench.build_graphs import diamonds, files


def test_a_diamond_is_a_join_and_two_that_read_it():
    graph = diamonds(7)
    assert [node.inputs for node in graph.nodes] == [
        (),
        ("s00",),
        ("s00",),
        ("s01", "s02"),
        ("s03",),
        ("s03",),
        ("s04", "s05"),
    ]
    assert graph.middle == "s03" and files(5, 10).nodes[0].count == 5


def test_our_side_runs_nothing_twice_and_what_is_counted_is_what_ran(tmp_path):
    graph = diamonds(4)
    yard = build.lay(build.tools(Path("nowhere"))[0], graph, tmp_path)
    times = build.time_no_op([yard], 1)
    assert times["mmpt"]["run"]["median"] > 0 and not yard.ran()
    source = yard.laid.folder / "source" / "input.txt"
    source.write_text("another source")
    yard.call(yard.laid.run)
    assert sorted(yard.ran()) == ["s00", "s01", "s02", "s03"]
    (yard.laid.data("s03") / "00000.bin").unlink()
    yard.call(yard.laid.run)
    assert yard.ran() == ["s03"]


def test_a_peer_that_is_not_there_is_said_to_be_absent():
    found, versions = build.present(build.tools(Path("nowhere")))
    assert [tool.name for tool in found] == ["mmpt"]
    assert versions["DVC"].startswith("absent")
