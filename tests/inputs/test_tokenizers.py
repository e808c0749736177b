"""Tokenizers as people have them: with padding, truncation, pointers, halves, holes; text that looks like control."""

import json

import pytest
from transformers import AutoTokenizer

from mmpt.model.export import save_tokenizer
from mmpt.shards.text_set import encoded, read_lines
from mmpt.shards.token_space import train_tokenizer, vocabulary_size
from mmpt.shards.tokenizer_file import check_tokenizer, open_tokenizer_file
from mmpt.shards.tokenizer_ids import certain_names, check_tokenizer_ids
from mmpt.store.errors import UserError
from mmpt.tokens.exported_names import token_names
from mmpt.tokens.space import build_token_space

TEXTS = [
    "a red circle",
    "a <|image_7|> cat",
    "say <|gen_img|> now",
    "<|endoftext|>",
    "x<|im_end|>y <think> [INST] <|text_start|>",
    "<|audio_cb0_0|><|pad_mm|>",
    "caf\u00e9 \U0001f436",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level BPE with control tokens of the kinds that bases have."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a red circle and a cat say now"] * 4, 300, folder)
    changed(
        folder,
        lambda file: file["added_tokens"].extend(
            {
                "id": len(file["model"]["vocab"]) + at,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": special,
            }
            for at, (name, special) in enumerate(
                [("<|im_end|>", True), ("<think>", False), ("[INST]", False), ("zwei", False)]
            )
        ),
    )
    return folder


def changed(folder, change, target=None):
    path = folder / "tokenizer.json"
    file = json.loads(path.read_text())
    change(file)
    ((target or folder) / "tokenizer.json").write_text(json.dumps(file))
    return (target or folder) / "tokenizer.json"


def space_of(folder):
    return space_for(vocabulary_size(folder))


def space_for(text):
    return build_token_space(
        base_text_model="tiny",
        text_vocab_size=text,
        n_special=16,
        image_tokenizer={"name": "p", "codebook_size": 12, "tokens_per_image": 6},
        audio_codec={"name": "m", "n_codebooks": 1, "codebook_size": 6},
    )


def test_no_text_becomes_a_control_id_and_none_is_lost(folder):
    tokenizer = open_tokenizer_file(folder / "tokenizer.json")
    controls = {tokenizer.token_to_id(name) for name in ("<|endoftext|>", "<|im_end|>", "<think>", "[INST]")}
    for text, ids in zip(TEXTS, encoded(tokenizer, TEXTS), strict=True):
        assert not controls & set(ids) and tokenizer.decode(ids) == text
    assert tokenizer.token_to_id("zwei") in tokenizer.encode("ein zwei").ids  # a word that was added is a word


def test_the_exported_tokenizer_gives_the_ids_of_the_run(folder, tmp_path):
    space = space_of(folder)
    check_tokenizer(folder / "tokenizer.json", space)
    save_tokenizer(folder, tmp_path, space)
    run, exported = open_tokenizer_file(folder / "tokenizer.json"), AutoTokenizer.from_pretrained(tmp_path)
    for text, ids in zip(TEXTS, encoded(run, TEXTS), strict=True):
        assert exported.encode(text, add_special_tokens=False) == ids
        assert exported(text, add_special_tokens=False)["input_ids"] == ids and exported.decode(ids) == text
    for place, name in enumerate(token_names(space), space.new_start):
        assert exported.convert_tokens_to_ids(name) == place


@pytest.mark.parametrize(
    "carried",
    [
        {"truncation": {"max_length": 6, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
        {
            "padding": {
                "strategy": "BatchLongest",
                "direction": "Right",
                "pad_to_multiple_of": 8,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<|endoftext|>",
            }
        },
    ],
)
def test_padding_and_truncation_of_the_file_are_off(folder, tmp_path, carried):
    plain = open_tokenizer_file(folder / "tokenizer.json")
    carrying = open_tokenizer_file(changed(folder, lambda file: file.update(carried), tmp_path))
    texts = ["a", "a red circle and a cat say now, a red circle and a cat"]
    assert list(encoded(carrying, texts)) == list(encoded(plain, texts))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "a Git LFS pointer .* git lfs pull"),
        (b'{"model": {"vocab": {"a": 1', "damaged, or half a download; found no closing brace"),
        (b"{}", "not a tokenizer that tokenizers reads"),
        (b"", "no closing brace"),
        (b"\xff\xfe{}", "not a tokenizer"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path, data, match):
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(UserError, match=match) as error:
        open_tokenizer_file(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)


def test_a_panic_of_tokenizers_is_one_line(folder, tmp_path):
    """A prefix longer than the merged tokens: an index of its Rust code ends below zero."""
    path = changed(folder, lambda file: file["model"].update(continuing_subword_prefix="<|endoftext|>"), tmp_path)
    with pytest.raises(UserError, match="not a tokenizer that tokenizers reads; found range end index"):
        open_tokenizer_file(path)


def test_a_hole_or_a_name_of_ours_is_refused_before_training(folder, tmp_path):
    def hole(file):
        vocab, file["added_tokens"] = file["model"]["vocab"], file["added_tokens"][:1]
        vocab[max(vocab, key=vocab.get)] += 7  # camembert lacks an id in its middle
        file["model"]["merges"] = []

    with pytest.raises(UserError, match="no room for our ids"):
        check_tokenizer(changed(folder, hole, tmp_path), space_of(tmp_path))

    def covered(file):  # an added token is moved down into the hole's room: the count alone fits
        vocab, file["model"]["merges"] = file["model"]["vocab"], []
        del vocab[next(name for name, place in vocab.items() if place == 200)]

    with pytest.raises(UserError, match="no room for our ids.*id 200 is missing"):
        check_tokenizer(changed(folder, covered, tmp_path), space_of(tmp_path))

    def taken(file):
        file["added_tokens"][-1]["content"] = "<|image_0|>"

    path = changed(folder, taken, tmp_path)
    with pytest.raises(UserError, match="none may bear this name"):
        check_tokenizer(path, space_of(tmp_path))


def added(at, name):
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": at, "content": name, **plain, "special": True}


def add_hole(file):
    vocab = file["model"]["vocab"]
    vocab[max(vocab, key=vocab.get)] += 7
    file["model"]["merges"] = []


def add_twin(file):
    vocab = file["model"]["vocab"]
    vocab[max(vocab, key=vocab.get)] -= 1
    file["model"]["merges"] = []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (add_hole, "no room for our ids; found id .* is missing"),
        (add_twin, "no room for our ids; found two tokens have id"),
        (lambda file: file["added_tokens"].append(added(999, "<x>")), "'<x>' with id 999; expected id 281,"),
        (lambda file: file["added_tokens"].reverse(), "'<think>' with id 279|'zwei' with id 280; expected id 277,"),
        (lambda file: file["added_tokens"].append(added(280, "<x>")), "'<x>' with id 280; expected id 281,"),
        (lambda file: file["added_tokens"].append(added(281, "a")), "'a' with id 281; expected id 65,"),
        (lambda file: file["added_tokens"].append(added(281, "<think>")), "'<think>' with id 281; expected id 278,"),
        (lambda file: file["added_tokens"].append(added(278, "<think>")), None),  # twice the same says nothing else
        (lambda file: file["added_tokens"].append(added(281, "<|text_end|>")), "text_end.> is id 281; none of its tok"),
        (
            lambda file: file["added_tokens"].append(added(281, "<|image_0|>")),
            "image_0.> is id 281; none of",
        ),
        (lambda file: file["added_tokens"].append(added(281, "<|audio_cb0_0|>")), None),  # there is no codec for it
        (lambda file: file["added_tokens"].append(added(281, "<x>")), "282 ids; expected at most 281, vocab_size"),
        (lambda file: file["added_tokens"].append(added(281, "")), "added token '' with id 281; expected a token"),
        (lambda file: file["model"]["vocab"].update(a=1.5), "'a' with id 1.5"),
        (lambda file: file["model"].update(vocab=[]), "found no vocabulary"),
        (lambda file: file.pop("model"), "found no vocabulary"),
    ],
)
def test_ids_that_tokenizers_would_not_give_are_refused_before_anything_runs(folder, tmp_path, change, match):
    changed(folder, change, tmp_path)
    rows = 281 if match and "vocab_size" in match else None
    names = certain_names(16, ["image"])
    if match is None:
        return check_tokenizer_ids(tmp_path, "base.path", names, rows)
    with pytest.raises(UserError, match=match) as error:
        check_tokenizer_ids(tmp_path, "base.path", names, rows)
    assert "\n" not in str(error.value) and str(error.value).startswith("base.path: tokenizer.json: ")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("tokenizer_config.json", {"pad_token": "[PAD]"}, r"pad_token '\[PAD\]'; expected a token of tokenizer.json"),
        ("tokenizer_config.json", {"eos_token": {"content": "</s>"}}, "eos_token '</s>'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": "<think>"}}}, "id 5; expected id 278,"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"281": {"content": "<y>"}}}, "'<y>' with id 281; .* a tok"),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "<image>"}}, "extra_special_tokens '<ima"),
        (
            "special_tokens_map.json",
            {"additional_special_tokens": ["<think>", "<y>"]},
            "_special_tokens '<y>",
        ),
        ("added_tokens.json", {"<think>": 7}, "'<think>' with id 7; expected id 278,"),
        ("added_tokens.json", {"<y>": 281}, "'<y>' with id 281; expected a token of tokenizer.json"),
        ("vocab.json", {"a": 66}, "'a' with id 66; expected id 65,"),
        ("vocab.json", [1], "vocab.json: .*no closing brace"),
        ("tokenizer_config.json", {"a": "{"}, None),
        ("tokenizer_config.json", {"bos_token": None, "unk_token": "<think>", "chat_template": "x"}, None),
        ("tokenizer_config.json", {"added_tokens_decoder": {"278": {"content": "<think>"}}}, None),
        ("vocab.json", {"a": 65, "more": 999}, None),
    ],
)
def test_files_beside_the_tokenizer_must_agree_with_it(folder, tmp_path, name, content, match):
    """transformers would add what they name, with ids behind ours that no row belongs to."""
    changed(folder, lambda file: None, tmp_path)
    (tmp_path / name).write_text(json.dumps(content))
    if match is None:
        return check_tokenizer(tmp_path / "tokenizer.json", space_of(tmp_path))
    with pytest.raises(UserError, match=match) as error:
        check_tokenizer(tmp_path / "tokenizer.json", space_of(tmp_path))
    assert "\n" not in str(error.value) and f"base.path: {name}: " in str(error.value)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("caf\u00e9\nx".encode("latin-1"), "not UTF-8 text; found byte 0xe9 in line 1"),
        (b"\x1f\x8b\x08", "found gzip"),
        ("x".encode("utf-16"), "found UTF-16"),
        ("x".encode("utf-32"), "found UTF-32; .*save it as UTF-8"),
        (b"PAR1\x15\x04", "found Parquet"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "found 7z; .*unpack it"),
        (b"PK\3\4", "found zip"),
        (b"ok\n\xff", "in line 2"),
    ],
)
def test_a_text_that_is_none_is_one_line(tmp_path, data, match):
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(UserError, match=match) as error:
        read_lines(tmp_path / "t")
    assert "\n" not in str(error.value)


def test_a_mark_at_the_start_makes_no_other_line(tmp_path):
    (tmp_path / "a").write_text("\ufeffone line\r\ntwo\u2028still two\n\n  three \n")
    assert read_lines(tmp_path / "a") == ["one line", "two\u2028still two", "three"]
