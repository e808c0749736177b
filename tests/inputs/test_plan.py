"""What `doit plan` refuses, where looking costs nothing: captions, texts, the base's context, the cache of modules."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mmpt.build.early import check_early, check_sources
from mmpt.build.stage_table import STAGES
from mmpt.build.tasks import open_project
from mmpt.corpus import first_look as looking
from mmpt.corpus.first_look import first_look
from mmpt.shards.token_space import train_tokenizer
from mmpt.store.compiled_modules import cache_folder, require_cache
from mmpt.store.errors import UserError
from tests.build.forked_doit import REPO, forked_doit
from tests.corpus import published_folders as made

GOOD = {"id": "a", "image": "p.png", "caption": "a cat"}


def captioned(folder, *lines):
    folder.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(folder / "p.png")
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def project(root, **sections):
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump({"extends": "smoke", "name": "x", **sections}))
    return open_project(str(path), STAGES, root)


def look(folder, reader="captions", mode="fail"):
    first_look([{"name": "mine", "reader": reader, "path": str(folder)}], {"mine": folder}, mode)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ({**GOOD, "id": "b", "caption": "\u200b"}, "captions.jsonl:2: record b: empty caption"),
        ({**GOOD, "id": "b", "image": "a" * 300 + ".png"}, "no file can be read under this name"),
        ({**GOOD, "id": "b", "image": "q.png"}, "image file does not exist"),
        (GOOD, "duplicate id"),
    ],
)
def test_bad_records_are_refused_where_the_stage_would_refuse_them(tmp_path, line, match):
    folder = captioned(tmp_path / "src", GOOD, line)
    with pytest.raises(UserError, match=rf"1 bad record in the first 2 records:\n.*{match}"):
        look(folder)
    look(folder, mode="skip")


def test_a_corpus_without_a_good_record_is_refused_in_both_modes(tmp_path):
    folder = captioned(tmp_path / "src", {**GOOD, "caption": "."})
    with pytest.raises(UserError, match="the corpus has no usable record; found 1 bad records"):
        look(folder, mode="skip")


def test_a_long_table_is_looked_at_as_far_as_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "RECORDS", 3)
    folder = captioned(tmp_path / "src", *({**GOOD, "id": str(at)} for at in range(3)), {**GOOD, "caption": ""})
    look(folder)
    monkeypatch.setattr(looking, "RECORDS", 4)
    with pytest.raises(UserError, match="empty caption"):
        look(folder)


def test_a_published_set_is_looked_at_where_it_is_small(tmp_path, monkeypatch):
    folder = made.audiocaps(tmp_path / "src")
    look(folder, "audiocaps")
    for sound in [one for one in (folder / "audio").rglob("*") if one.is_file()]:
        sound.rename(sound.with_suffix(".m4a"))
    with pytest.raises(UserError, match="no medium of part 'train'.*soundfile does not read that format; convert it"):
        look(folder, "audiocaps", mode="skip")
    monkeypatch.setattr(looking, "FILES", 3)
    look(folder, "audiocaps")


def test_only_a_corpus_that_is_to_be_built_is_looked_at(tmp_path):
    folder = captioned(tmp_path / "src", GOOD, GOOD)
    sources = [{"name": "mine", "reader": "captions", "path": str(folder)}]
    found = project(tmp_path, corpus={"on_bad_record": "fail", "sources": sources})
    check_sources(found, ["manifest"])
    with pytest.raises(UserError, match="duplicate id"):
        check_sources(found, ["corpus"])


@pytest.mark.parametrize(
    ("data", "match"), [(b"\x1f\x8b\x08", "found gzip"), ("caf\u00e9".encode("latin-1"), "found byte 0xe9")]
)
def test_a_text_that_is_none_is_refused_for_the_stages_that_read_it(tmp_path, data, match):
    (tmp_path / "t.txt").write_bytes(data)
    found = project(tmp_path, text={"replay_file": "./t.txt"})
    check_early(found, ["corpus"])
    with pytest.raises(UserError, match=rf"text.replay_file: t.txt: not UTF-8 text; {match}"):
        check_early(found)


def test_examples_longer_than_the_bases_context_are_refused_before_the_first_stage(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    found = project(tmp_path, base={"kind": "pretrained", "path": "./base"})
    check_early(found, ["corpus"])
    with pytest.raises(UserError, match="longer than the base's context; found 128; expected at most 64"):
        check_early(found)


@pytest.mark.parametrize(
    ("name", "rows", "match"),
    [
        ("<|image_0|>", 512, "<.image_0.> is id 257; none of its tokens may bear this name"),
        ("<x>", 257, "258 ids; expected at most 257, vocab_size of config.json"),
        ("<x>", 258, None),
    ],
)
def test_a_tokenizer_without_room_for_our_ids_is_refused_until_it_is_taken(tmp_path, name, rows, match):
    base = tmp_path / "base"
    train_tokenizer(["a b"], 257, base)
    file = json.loads((base / "tokenizer.json").read_text())
    file["added_tokens"].append({**file["added_tokens"][0], "id": 257, "content": name})
    (base / "tokenizer.json").write_text(json.dumps(file))
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": rows}))
    found = project(tmp_path, base={"kind": "pretrained", "path": "./base"})
    check_early(found, ["corpus"])
    if match is None:
        return check_early(found)
    with pytest.raises(UserError, match=match):
        check_early(found)
    shutil.copytree(base, found.root / "token_space/data/tokenizer")
    check_early(found)


def test_a_cache_that_may_not_be_written_is_refused_unless_it_has_a_module(tmp_path, monkeypatch):
    """HOME=/ of a container, by the answer of the system call: root may write anywhere."""
    monkeypatch.setenv("MMPT_CACHE", str(tmp_path / "cache" / "mine"))
    require_cache()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=r"cache/mine/kernels: the folder .* cannot be written; .* set MMPT_CACHE"):
        require_cache()
    (cache_folder() / "abc").mkdir(parents=True)
    (cache_folder() / "abc" / "mmpt_kernels.so").touch()
    require_cache()


def test_plan_exits_with_2_and_leaves_nothing(tmp_path):
    """Bad records, and a cache of compiled modules that cannot be made (HOME=/ of a container)."""
    root = tmp_path / "project"
    captioned(root / "src", GOOD, GOOD)
    shutil.copy(REPO / "dodo.py", root)  # a link would lead to the clone's artifacts
    for name in ("gates", "pyproject.toml"):
        (root / name).symlink_to(REPO / name)
    sources = [{"name": "mine", "reader": "captions", "path": "./src"}]
    text = {"extends": "smoke", "name": "x", "corpus": {"on_bad_record": "fail", "sources": sources}}
    (root / "run.yaml").write_text(yaml.safe_dump(text))
    code, printed = forked_doit(root, "plan", "corpus", "profile=run.yaml")
    assert code == 2 and "duplicate id" in printed and "Traceback" not in printed and not (root / "artifacts").exists()
    (tmp_path / "file").write_text("x")
    environment = {"MMPT_CACHE": str(tmp_path / "file" / "cache")}
    code, printed = forked_doit(root, "plan", "extension", "profile=run.yaml", environment=environment)
    assert code == 2 and "set MMPT_CACHE to a folder that can" in printed and "Traceback" not in printed
    text["corpus"]["on_bad_record"] = "skip"
    (root / "run.yaml").write_text(yaml.safe_dump(text))
    assert forked_doit(root, "plan", "corpus", "profile=run.yaml")[0] == 0
