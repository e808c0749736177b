"""A bounded, seeded fuzz over every reader of what people bring: it ends in a record, a bad record or one clear line.

`python -m tests.inputs.fuzz` goes on with more files, in processes of their own.
"""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from mmpt.corpus import captions, webdataset
from mmpt.corpus import table as table_reader
from mmpt.corpus.manifest import measure
from mmpt.corpus.problems import Problem
from mmpt.profile.yaml_file import read_yaml
from mmpt.shards.token_space import train_tokenizer
from mmpt.shards.tokenizer_file import open_tokenizer_file
from mmpt.shards.tokenizer_ids import check_tokenizer_ids
from mmpt.store.errors import UserError
from mmpt.store.model_files import read_header
from mmpt.store.tensors import load_tensors, read_meta, save_tensors
from tests.corpus.parquet_files import NEEDS_PYARROW
from tests.inputs import fuzz

ROWS = pytest.param("rows", 60, marks=NEEDS_PYARROW)


@pytest.mark.parametrize(("kind", "files"), [("pictures", 200), ("sounds", 150), ("segments", 60), ROWS])
def test_damaged_media(tmp_path, kind, files):
    good, whole = fuzz.good_files(kind)
    came = [fuzz.outcome(kind, good, whole, number, tmp_path / "f.bin") for number in range(files)]
    assert not [one for one in came if one[2][0].isupper()]
    assert {one[2] for one in came} >= {"unreadable", "bad_line" if kind == "rows" else "changed"}
    plain = (
        "BMP",
        "DDS",
        "IM",
        "MSP",
        "PCX",
        "PPM",
        "SGI",
        "TGA",
        "TIFF",
        "WAV",
        "RF64",
        "W64",
        "AIFF",
        "AU",
        "CAF",
        "NIST",
        "SVX",
        "XBM",
    )  # uncompressed: zeros are black or silent
    taken = [one for one in came if one[2] == "different" and not (one[1] == "zeros" and one[0].startswith(plain))]
    assert len(taken) <= files // 50  # a few bytes at the very end


def is_fine(read, number):
    """What was read; None where one clear line refused it."""
    try:
        return read()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, number
        return None


def table(form):
    rows = [
        {"id": f"r{i}", "image": "p.png", "caption": f'a "big" cat, no. {i}\u00e9\u2028x', "split": "test"}
        for i in range(12)
    ]
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=bool(i % 2)) + "\n" for i, row in enumerate(rows)).encode()
    quoted = [[f'"{cell}"'.replace('"big"', '""big""') for cell in row.values()] for row in rows]
    return ("id,image,caption,split\r\n" + "".join(",".join(row) + "\r\n" for row in quoted)).encode()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_damaged_tables(tmp_path, form):
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png")
    data, whole = table(form), 0
    for number in range(400):
        (tmp_path / f"captions.{form}").write_bytes(fuzz.changed(data, np.random.default_rng([number, 5]))[1])
        found = is_fine(lambda: [item for _, item in captions.read(tmp_path, "real")], number)
        for item in found or ():
            assert isinstance(item, Problem | dict)
            json.dumps(item.to_json() if isinstance(item, Problem) else item, ensure_ascii=False).encode()
            assert "\n" not in str(item)
        whole += bool(found)
    assert whole > 100


def are_plain(items, number):
    """Records and bad records that later stages can write down, each in one line."""
    for item in items:
        assert isinstance(item, Problem | dict), number
        json.dumps(item.to_json() if isinstance(item, Problem) else item, ensure_ascii=False).encode()
        assert "\n" not in str(item), number
    return [item for item in items if isinstance(item, dict)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_damaged_tables_of_reader_table(tmp_path, form):
    """Columns of other names, several captions of a medium, splits, offsets."""
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png")
    rows = [
        {
            "file_name": "p.png",
            "text": f"a cat, no. {at}",
            "caption_2": "a\u2028tabby",
            "license": "CC0",
            "group": at % 3,
        }
        for at in range(9)
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if form == "csv":
        data = (",".join(rows[0]) + "\n").encode()
        data += "".join(",".join(f'"{one}"' for one in row.values()) + "\n" for row in rows).encode()
    whole, source = 0, {"name": "t", "file": f"metadata.{form}", "columns": {"caption": ["text", "caption_2"]}}
    for number in range(200):
        (tmp_path / f"metadata.{form}").write_bytes(fuzz.changed(data, np.random.default_rng([number, 12]))[1])
        found = is_fine(lambda: [item for _, item in table_reader.read(tmp_path, source)], number)
        whole += bool(are_plain(found or (), number))
    assert whole > 60


def test_damaged_shards_of_reader_webdataset(tmp_path):
    """Tars damaged anywhere; what is still a record is a whole picture with a caption, or unreadable when measured."""
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(stream, "PNG")
    picture, packed = stream.getvalue(), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for at in range(4):
            told = json.dumps({"caption": ["a cat", "a tabby"], "license": "CC0", "width": 3}).encode()
            for name, member in ((f"{at}.png", picture), (f"{at}.json" if at % 2 else f"{at}.txt", told)):
                info = tarfile.TarInfo(name)
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    data, read, measured = packed.getvalue(), 0, []
    for number in range(300):
        (tmp_path / "s.tar").write_bytes(fuzz.changed(data, np.random.default_rng([number, 13]))[1])
        found = is_fine(lambda: [item for _, item in webdataset.read(tmp_path, {"name": "w"})], number)
        records = are_plain(found or (), number)
        read += bool(records)
        measured += [measure(record, {"w": tmp_path}) for record in records[:2]]
    good = [one for one in measured if isinstance(one, dict)]
    are_plain([one for one in measured if isinstance(one, Problem)], -1)
    assert read > 100 and 100 < len(good) < len(measured)
    assert {(one["image"]["width"], one["image"]["height"]) for one in good} == {(3, 2)}


def test_damaged_profiles(tmp_path):
    text = b"name: x\nseed: 3\na: {b: [1, 2e-3, yes, 12:00:00], c: &k {d: ~}}\ne: {<<: *k, f: 'g'}\n"
    text += b"long: >\n  text\n  more\n"
    read = 0
    for number in range(600):
        (tmp_path / "p.yaml").write_bytes(fuzz.changed(text, np.random.default_rng([number, 6]))[1])
        read += is_fine(lambda: read_yaml(tmp_path / "p.yaml"), number) is not None
    assert read > 40


def test_damaged_tokenizers(tmp_path):
    train_tokenizer(["a red circle and a cat"] * 3, 270, tmp_path)
    path = tmp_path / "tokenizer.json"
    data, read = path.read_bytes(), 0
    for number in range(150):
        path.write_bytes(fuzz.changed(data, np.random.default_rng([number, 7]))[1])
        tokenizer = is_fine(lambda: open_tokenizer_file(path), number)
        read += tokenizer is not None and tokenizer.encode("a <|endoftext|> cat") is not None
    assert read > 5


ODD = (None, True, 0, 3, 299, -1, 1.5, 2**40, "", "a", "<|endoftext|>", "<|pad_mm|>", "\u2028", [], [1], {}, {"id": 1})


def replaced(tree, rng):
    """A JSON tree with one node changed, removed or said twice."""
    tree = json.loads(json.dumps(tree))
    at = tree
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = keys[int(rng.integers(len(keys)))]
        below = at[key]
        if not isinstance(below, dict | list) or not below or rng.random() < 0.1:
            break
        at = below
    how = int(rng.integers(6))
    if how == 0:
        del at[key]
    elif how == 1 and isinstance(at, list):
        at.insert(int(rng.integers(len(at) + 1)), below)
    elif how == 2 and isinstance(at, dict):
        at[f"{key}x"] = at.pop(key)
    else:
        at[key] = ODD[int(rng.integers(len(ODD)))]
    return tree


def test_tokenizer_files_that_disagree(tmp_path):
    """What is taken gives every token the id that each file states, here and in transformers."""
    train_tokenizer(["a red circle and a cat"] * 3, 270, tmp_path)
    files = {name: json.loads((tmp_path / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json")}
    plain = files["tokenizer.json"]["added_tokens"][0]
    size = len(files["tokenizer.json"]["model"]["vocab"])
    more = [{**plain, "id": size + at, "content": name} for at, name in enumerate(["<x>", "<think>", "<y>"])]
    files["tokenizer.json"]["added_tokens"] += more
    files["tokenizer_config.json"]["added_tokens_decoder"] = {str(one["id"]): {**one} for one in more}
    files["special_tokens_map.json"] = {"eos_token": plain, "additional_special_tokens": ["<x>", {"content": "<y>"}]}
    files["added_tokens.json"] = {one["content"]: one["id"] for one in more}
    for other, good in files.items():
        (tmp_path / other).write_text(json.dumps(good))
    taken = 0
    for number in range(150):
        rng = np.random.default_rng([number, 11])
        name = sorted(files)[int(rng.integers(len(files)))]
        tree = files[name]
        if name == "tokenizer.json" and rng.random() < 0.6:  # its vocabulary is by far the most of it
            tree = {**tree, "added_tokens": replaced(tree["added_tokens"], rng)}
        else:
            tree = replaced(tree, rng)
        (tmp_path / name).write_text(json.dumps(tree))
        agree = is_fine(lambda: check_tokenizer_ids(tmp_path, "base.path") or True, number)
        tokenizer = is_fine(lambda: open_tokenizer_file(tmp_path / "tokenizer.json"), number)
        (tmp_path / name).write_text(json.dumps(files[name]))
        if agree is None or tokenizer is None:
            continue
        taken += 1
        now = tree if name == "tokenizer.json" else files["tokenizer.json"]
        stated = {one["content"]: one["id"] for one in now.get("added_tokens", ())}
        assert all(tokenizer.token_to_id(token) == at for token, at in stated.items()), number
        assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size())), number
    assert 30 < taken < 135


def test_damaged_safetensors(tmp_path):
    path, read = tmp_path / "t.safetensors", 0
    save_tensors(
        path, {"a": np.arange(40.0, dtype=np.float32).reshape(5, 8), "b": np.zeros(3, np.int32)}, {"kind": "x"}
    )
    data = path.read_bytes()
    for number in range(400):
        path.write_bytes(fuzz.changed(data, np.random.default_rng([number, 8]))[1])
        read += is_fine(lambda: load_tensors(path), number) is not None
        is_fine(lambda: read_header(path, "base.path"), number)
        is_fine(lambda: read_meta(path), number)
    assert read > 20
