"""The cost curves: generated data holds the schemas, a point is measured once, and the table says what was measured."""

import pytest

from mmpt.bench import scale, scale_rows, tables
from mmpt.store.canonical import read_json, write_json
from mmpt.store.schema import accepted


def test_made_up_rows_hold_their_schemas_and_are_the_same_every_time():
    for make, name in (
        (scale_rows.record, "record"),
        (scale_rows.manifest_row, "manifest_record"),
        (scale_rows.shard_row, "shard_record"),
    ):
        assert all(accepted(make(index), name) for index in range(40)), name
        assert make(7) == make(7) and len({make(index)["id"] for index in range(100)}) == 100
    rows = [scale_rows.manifest_row(index) for index in range(4000)]
    assert len({r["origin"] for r in rows}) == 400 + 2000 and {r["split_hint"] for r in rows} == {None, "test"}
    pictures = [r for r in rows if r["modality"] == "image"]
    assert len({r["content_sha256"] for r in pictures}) == len(pictures) * 49 // 50


def test_a_run_that_was_cut_off_goes_on_with_the_points_that_are_missing(tmp_path, monkeypatch):
    run, started = scale._in_a_process, []
    monkeypatch.setattr(scale, "_in_a_process", lambda *words: started.append(words[:2]) or run(*words))
    first = scale.point("examples", tmp_path, 60)
    made = ["manifest", "token_space", "split", "shards"]
    assert started == [*(("--make", one) for one in made), ("--measure", "examples")]
    assert first["records"] == 60 and first["seconds"] > 0 and first["peak_mib"] > 10
    assert read_json(tmp_path / "60" / "examples" / "drops.json")["a2t"]["kept"] == 30
    started.clear()
    assert scale.point("examples", tmp_path, 60) == first and started == []
    assert scale.point("split", tmp_path, 60)["curve"] == "split"
    assert started == [("--measure", "split")]  # its input was there


def test_a_point_that_fails_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(scale.CURVES, "split", scale.Curve("no input", (), scale.run_split))
    with pytest.raises(Exception, match="no such file"):
        scale.measure("split", tmp_path, 10)
    assert list(tmp_path.glob("points/*")) == []


def test_the_table_shows_time_and_memory_by_size(tmp_path, monkeypatch):
    points = [
        {"curve": "split", "records": n, "seconds": 99.0, "processor_seconds": n / 1e4, "peak_mib": 50.0}
        for n in (1000, 10_000, 100_000)
    ]
    points += [
        {
            **points[0],
            "curve": "validate manifest",
            "records": 100_000,
            "processor_seconds": 0.5,
            "jsonschema_us_a_record": 110,
        }
    ]
    points += [{**points[0], "curve": "reading", "records": 100_000, "anonymous_mib": 24.0}]
    says = {"validate manifest": "a manifest", "split": "the split", "reading": "drawn"}
    write_json(
        tmp_path / "scale-x-2026-01-01.json", {"chip": "x", "date": "2026-01-01", "points": points, "says": says}
    )
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = tables.scale()
    assert "| records | 1,000 | 10,000 | 100,000 | MiB at 10,000 | MiB at 100,000 |" in text
    assert "| the split | 100.0 ms | 1.00 s | 10.00 s | 50 | 50 |" in text
    assert "| a manifest (jsonschema: 11.00 s) |  |  | 500.0 ms |  | 50 |" in text
    assert "| drawn |  |  | 100.0 ms |  | 24 |" in text
