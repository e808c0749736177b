"""A profile with `after` runs behind the GO of the profile that it names, and not without it."""

from mmpt.build import after
from tests.build.test_sharing import profile


def test_without_the_other_profiles_go_nothing_runs(tiny):
    word = profile(tiny, "promoted", ("seed: 1", "seed: 1\nafter: smoke"))
    assert "missing          after: no decision of smoke: no such file" in tiny.doit("plan", word).text
    refused = tiny.doit(word)
    assert refused.code == 2 and "this profile goes on after a GO of smoke; found no decision" in refused.text
    assert not (tiny.root.parent / "promoted" / "count").exists()


def test_the_go_must_stand_and_be_of_the_same_kind(built, monkeypatch):
    word = profile(built, "promoted", ("seed: 1", "seed: 1\nafter: smoke"), ("steps: 3", "steps: 4"))
    assert built.doit("count", word).code == 0
    manifest = built.root / "side" / "MANIFEST.sha256"
    text = manifest.read_text()
    manifest.write_text(text.replace("side", "seat"))
    assert "found stage side of smoke changed after its decision" in built.doit(word).text
    manifest.write_text(text)
    monkeypatch.setattr(after, "SAME", {"slow": "slow"})
    assert "found smoke has another `slow`" in built.doit(word).text
    monkeypatch.undo()
    built.ask_for(1000)
    assert built.doit().code == 10
    assert "found smoke is NO-GO" in built.doit(word).text
