"""Tokenizers as people have them: with padding, truncation, pointers, halves, holes; text that looks like control."""

import json

import pytest
from transformers import AutoTokenizer

from mmpt.model.export import save_tokenizer
from mmpt.shards.text_set import encoded, read_lines
from mmpt.shards.token_space import train_tokenizer, vocabulary_size
from mmpt.shards.tokenizer_file import check_tokenizer, open_tokenizer_file
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


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("caf\u00e9\nx".encode("latin-1"), "not UTF-8 text; found byte 0xe9 in line 1"),
        (b"\x1f\x8b\x08", "found gzip"),
        ("x".encode("utf-16"), "found UTF-16"),
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
